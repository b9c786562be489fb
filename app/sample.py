"""The sample data, and the function that fills in what is missing of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random, randint

from django.contrib.auth.hashers import make_password
from django.db import transaction

from app.models import Author, Book, Candle, Fortune, Token, User, World

BOOKS: dict[str, list[tuple[str, int, str]]] = {
    "Bram Stoker": [("Dracula", 1897, "9.50")],
    "Charles Dickens": [
        ("A Christmas Carol", 1843, "6.00"),
        ("A Tale of Two Cities", 1859, "9.90"),
        ("Great Expectations", 1861, "10.50"),
    ],
    "Charlotte Brontë": [("Jane Eyre", 1847, "10.00"), ("Villette", 1853, "9.20")],
    "Emily Brontë": [("Wuthering Heights", 1847, "8.90")],
    "Émile Zola": [("Au Bonheur des Dames", 1883, "11.00"), ("Germinal", 1885, "12.30")],
    "Fyodor Dostoevsky": [
        ("Crime and Punishment", 1866, "12.90"),
        ("The Brothers Karamazov", 1880, "15.00"),
        ("The Idiot", 1869, "12.00"),
    ],
    "Gustave Flaubert": [("Madame Bovary", 1857, "9.80")],
    "H. G. Wells": [
        ("The Invisible Man", 1897, "7.20"),
        ("The Time Machine", 1895, "6.80"),
        ("The War of the Worlds", 1898, "7.90"),
    ],
    "Herman Melville": [("Bartleby, the Scrivener", 1853, "5.50"), ("Moby-Dick", 1851, "13.40")],
    "Jane Austen": [
        ("Emma", 1815, "9.00"),
        ("Persuasion", 1817, "8.50"),
        ("Pride and Prejudice", 1813, "9.90"),
        ("Sense and Sensibility", 1811, "9.40"),
    ],
    "Jules Verne": [
        ("Around the World in Eighty Days", 1872, "8.80"),
        ("Journey to the Centre of the Earth", 1864, "8.60"),
        ("Twenty Thousand Leagues Under the Seas", 1870, "10.20"),
    ],
    "Leo Tolstoy": [("Anna Karenina", 1878, "14.20"), ("War and Peace", 1869, "18.00")],
    "Lewis Carroll": [
        ("Alice's Adventures in Wonderland", 1865, "7.50"),
        ("Through the Looking-Glass", 1871, "7.50"),
    ],
    "Mark Twain": [
        ("Adventures of Huckleberry Finn", 1884, "8.40"),
        ("The Adventures of Tom Sawyer", 1876, "8.20"),
    ],
    "Mary Shelley": [("Frankenstein", 1818, "8.00"), ("The Last Man", 1826, "9.10")],
    "Nathaniel Hawthorne": [("The Scarlet Letter", 1850, "8.10")],
    "Natsume Sōseki": [("坊っちゃん", 1906, "7.70"), ("吾輩は猫である", 1905, "12.60")],
    "Oscar Wilde": [("The Picture of Dorian Gray", 1890, "8.70")],
    "Robert Louis Stevenson": [
        ("Kidnapped", 1886, "7.80"),
        ("Strange Case of Dr Jekyll and Mr Hyde", 1886, "6.40"),
        ("Treasure Island", 1883, "8.30"),
    ],
    "Victor Hugo": [("Les Misérables", 1862, "17.50"), ("Notre-Dame de Paris", 1831, "11.90")],
}

FORTUNES = [
    "fortune: No such file or directory",
    "A computer scientist is someone who fixes things that aren't broken.",
    "After enough decimal places, nobody gives a damn.",
    "A bad random number generator: 1, 1, 1, 1, 1, 4.33e+67, 1, 1, 1",
    "A computer program does what you tell it to do, not what you want it to do.",
    "Emacs is a nice operating system, but I prefer UNIX. — Tom Christaensen",
    "Any program that runs right is obsolete.",
    "A list is only as strong as its weakest link. — Donald Knuth",
    "Feature: A bug with seniority.",
    "Computers make very fast, very accurate mistakes.",
    '<script>alert("This should not be displayed in a browser alert box.");</script>',
    "フレームワークのベンチマーク",
]

USERS = ["Ada Lovelace", "Alan Turing", "Barbara Liskov", "Edsger Dijkstra", "Grace Hopper"]

#: symbol: name, and the price that its candles begin with
TOKENS = {
    "ADA": ("Cardano", 0.45),
    "BNB": ("BNB", 580.0),
    "BTC": ("Bitcoin", 64_000.0),
    "DOGE": ("Dogecoin", 0.12),
    "ETH": ("Ethereum", 3_100.0),
    "SOL": ("Solana", 150.0),
    "XRP": ("XRP", 0.55),
}
CANDLES = 240
FIRST_CANDLE = datetime(2025, 1, 1, tzinfo=UTC)


@transaction.atomic
def fill() -> None:
    """Insert what is missing, in bulk; rows that exist stay as they are."""
    if not Book.objects.exists():
        fill_books()
    if not User.objects.exists():
        fill_users()
    if not Token.objects.exists():
        fill_candles()
    worlds = set(range(1, World.COUNT + 1)).difference(World.objects.values_list("id", flat=True))
    World.objects.bulk_create(
        World(id=id, randomnumber=randint(1, World.COUNT)) for id in sorted(worlds)
    )
    fortunes = set(Fortune.objects.values_list("id", flat=True))
    Fortune.objects.bulk_create(
        Fortune(id=id, message=message)
        for id, message in enumerate(FORTUNES, 1)
        if id not in fortunes
    )


def fill_books() -> None:
    """Insert all books, and those of their authors who are not there yet."""
    books = []
    for name, written in BOOKS.items():
        author, _ = Author.objects.get_or_create(name=name)
        books += [
            Book(name=title, author=author, published=year, price=Decimal(price))
            for title, year, price in written
        ]
    Book.objects.bulk_create(books)


def fill_users() -> None:
    """Insert users who cannot log in: a password that everybody knows is none."""
    User.objects.bulk_create(
        User(
            username=name.split()[0].lower(),
            email=f"{name.replace(' ', '.').lower()}@example.com",
            full_name=name,
            password=make_password(None),
        )
        for name in USERS
    )


def fill_candles() -> None:
    """Insert all tokens, and for each an invented course, the same one wherever it is filled in."""
    Token.objects.bulk_create(
        Token(symbol=symbol, name=name) for symbol, (name, _) in TOKENS.items()
    )
    candles = []
    for token in Token.objects.filter(symbol__in=TOKENS):
        random = Random(token.symbol)
        close = TOKENS[token.symbol][1]
        for hour in range(CANDLES):
            before, close = close, close * random.lognormvariate(0, 0.01)
            candles.append(
                Candle(
                    token=token,
                    time=FIRST_CANDLE + timedelta(hours=hour),
                    open=price(before),
                    high=price(max(before, close) * (1 + random.random() / 200)),
                    low=price(min(before, close) * (1 - random.random() / 200)),
                    close=price(close),
                    volume=Decimal(random.randrange(1_000_000, 100_000_000)) / 100,
                )
            )
    Candle.objects.bulk_create(candles)


def price(value: float) -> Decimal:
    """Round a price to what its column keeps."""
    return Decimal(value).quantize(Decimal("0.00000001"))
