"""Contents for columns: what a server sends for each type, with its edges, and what it never should."""

from random import Random

from pymysql.constants import FIELD_TYPE as T

from tests.fuzz.packets import column

INTEGERS = (T.TINY, T.SHORT, T.LONG, T.LONGLONG, T.INT24)
FLOATS = (T.FLOAT, T.DOUBLE)
DECIMALS = (T.DECIMAL, T.NEWDECIMAL)
MOMENTS = (T.TIMESTAMP, T.DATETIME)
BYTES = (T.BIT, T.GEOMETRY)
TEXTS = (
    T.VARCHAR,
    T.VAR_STRING,
    T.STRING,
    T.TINY_BLOB,
    T.MEDIUM_BLOB,
    T.LONG_BLOB,
    T.BLOB,
    T.ENUM,
    T.SET,
    T.JSON,
)
TYPES = tuple(sorted({value for name, value in vars(T).items() if name.isupper()}))

BINARY = 63
#: collations of columns: what counts is whether it is the binary one, and how wide its characters are
COLLATIONS = (45, 45, 45, BINARY, 8, 33, 46, 83, 88, 224, 255, 2, 51, 28, 13)

NUMBERS = (b"0", b"1", b"-1", b"7", b"42", b"127", b"-128", b"255", b"65535", b"16777215")
NUMBERS += (b"-2147483648", b"4294967295", b"9223372036854775807", b"-9223372036854775808")
NUMBERS += (b"18446744073709551615", b"00012", b"000")
REALS = (b"0", b"-0", b"0.5", b"1.5", b"-2.25", b"3.40282e38", b"1.7976931348623157e308", b"5e-324")
REALS += (b"1e20", b"100000", b"-1.17549e-38", b"0.1", b"12345678.9")
FIXED = (
    b"0",
    b"0.00",
    b"-0.00",
    b"1.50",
    b"-123.4500",
    b"9" * 65,
    b"-" + b"9" * 35 + b"." + b"9" * 30,
)
FIXED += (b"0." + b"0" * 29 + b"1", b".5", b"100")
DATES = (b"2024-02-29", b"1000-01-01", b"9999-12-31", b"0001-01-01", b"1970-01-01", b"2026-11-21")
NO_DATES = (
    b"0000-00-00",
    b"2024-02-31",
    b"2023-02-29",
    b"2024-00-10",
    b"2024-10-00",
    b"0000-01-01",
)
NO_DATES += (b"0000-12-31",)
CLOCKS = (b"00:00:00", b"23:59:59", b"12:34:56", b"01:02:03", b"23:00:00")
TIMES = (
    b"00:00:00",
    b"-00:00:00",
    b"-00:00:01",
    b"00:00:01",
    b"838:59:59",
    b"-838:59:59",
    b"25:06:17",
)
TIMES += (b"-25:06:17", b"100:00:00", b"-01:00:00", b"12:34:56", b"-00:30:00", b"23:59:59")
FRACTIONS = (b".0", b".5", b".12", b".123", b".1234", b".00001", b".000001", b".123456", b".999999")
FRACTIONS += (b".000000", b".100000")
YEARS = (b"2024", b"1901", b"2155", b"0000")
DOCUMENTS = (b"{}", b"null", b'{"a": [1, 2.5, "\xc3\xa9"]}', b'"x"', b"[]")

#: what no server sends: PyMySQL's converters take some of it, give up on some, and raise for the rest
ODD_MOMENTS = (
    b"2024-01-02T03:04:05",
    b"2024-1-2 3:4:5",
    b"24-1-2 03:04:05.5",
    b"2024-01-02",
    b"2024-01-02 03:04",
    b"2024-01-02 03",
    b"2024-01-02 03:04:05+00:00",
    b"2024-01-02 03:04:05Z",
    b"2024-01-02 03:04:05,5",
    b"2024-01-02 03:04:05.",
    b"2024-01-02 03:04:05.1234567",
    b"2024-01-02 24:00:00",
    b"2024-01-02 03:04:60",
    b"2024-01-02\t03:04:05",
    b"2024-01-02 03:04:05 ",
    b" 2024-01-02 03:04:05",
    b"20240102 030405",
    b"20240102T030405",
    b"2024-W01-1 00:00:00",
    b"2024/01/02 03:04:05",
    b"12024-01-02 03:04:05",
    b"-2024-01-02 03:04:05",
    b"\n",
    b"",
)
ODD_DATES = (
    b"2024-1-2",
    b"24-1-2",
    b" 2024-01-02",
    b"2024-01-02 ",
    b"+2024-+1-+2",
    b"2_024-01-02",
    b"20240102",
    b"2024-W01-1",
    b"2024-001",
    b"2024-01-02T00:00:00",
    b"2024-01-02 00:00:00",
    b"2024-01",
    b"2024-01-02-03",
    b"-2024-01-02",
    b"10000-01-01",
    b"x",
    b"",
)
ODD_TIMES = (
    b"1:2:3",
    b"1:2:3.4",
    b"99:99:99",
    b"-99:99:99.999999",
    b"1000:00:00",
    b"+01:00:00",
    b"- 1:00:00",
    b"01:00",
    b"01:00:00.",
    b"01:00:00.1234567",
    b"01:00:00,5",
    b"1 01:00:00",
    b"01:00:00Z",
    b"T01:00:00",
    b"--1:00:00",
    b"random",
    b"",
)
ODD_NUMBERS = (
    b" 12",
    b"12 ",
    b"+5",
    b"1_000",
    b"-",
    b"",
    b"0x10",
    b"1.0",
    b"1e3",
    b"abc",
    b"\xd9\xa3",
)
ODD_REALS = (
    b"nan",
    b"inf",
    b"-Infinity",
    b" 1.5",
    b"1_0.5",
    b"",
    b"abc",
    b"1.5f",
    b"NaN123",
    b"sNaN",
)


def definition(name: bytes, type_code: int, rng: Random) -> bytes:
    """Return a column of this type: its charset, flags and lengths in turn."""
    length = rng.choice((0, 1, 20, 255, 1020, 0xFFFFFFFF))
    return column(
        name,
        type_code,
        charset=rng.choice(COLLATIONS),
        length=length,
        flags=rng.choice((0, 1, 16, 32, 128, 4097, 0xFFFF)),
        decimals=rng.choice((0, 2, 6, 31, 39)),
        table=rng.choice((b"t", b"t", b"u", b"")),
    )


def value(type_code: int, rng: Random, encoding: str, odd: bool = False) -> bytes | None:
    """Return what a server sends for a column of this type; with `odd` perhaps what it never would."""
    if type_code == T.NULL or not rng.randrange(8):
        return None
    if odd and not rng.randrange(3):
        return _odd(type_code, rng)
    if type_code in INTEGERS:
        return rng.choice(NUMBERS)
    if type_code in FLOATS:
        return rng.choice(REALS)
    if type_code in DECIMALS:
        return rng.choice(FIXED)
    if type_code in MOMENTS:
        return rng.choice(DATES + NO_DATES) + b" " + rng.choice(CLOCKS) + _fraction(rng)
    if type_code == T.TIME:
        return rng.choice(TIMES) + _fraction(rng)
    if type_code in (T.DATE, T.NEWDATE):
        return rng.choice(DATES + NO_DATES)
    if type_code == T.YEAR:
        return rng.choice(YEARS)
    if type_code in BYTES:
        # their charset is the binary one, but here they have others, too: nothing above 127
        return rng.choice((b"", b"\x00", b"\x01", b"\x7f\x00", b"\x00" * 25))
    if type_code in (T.ENUM, T.SET):
        return text(rng, "ascii")  # as PyMySQL decodes them; servers send them as STRING
    if type_code == T.JSON:
        return rng.choice(DOCUMENTS).decode().encode(encoding, "ignore")
    return text(rng, encoding)


def text(rng: Random, encoding: str) -> bytes:
    """Return text of that encoding; its lengths cross those at which the prefix grows."""
    size = rng.choice((0, 1, 2, 3, 5, 10, 10, 30, 250, 251, 252, 300))
    some = rng.choice(
        ("a", "Zoé", "日本語", "🙂", "0", " ", "\x00", "Привет", "2024-01-01", "\xfe\xff")
    )
    return (some * (size // len(some) + 1))[:size].encode(encoding, "ignore")


def _fraction(rng: Random) -> bytes:
    return rng.choice(FRACTIONS) if rng.randrange(2) else b""


def _odd(type_code: int, rng: Random) -> bytes:
    if type_code in MOMENTS:
        return rng.choice(ODD_MOMENTS)
    if type_code in (T.DATE, T.NEWDATE):
        return rng.choice(ODD_DATES)
    if type_code == T.TIME:
        return rng.choice(ODD_TIMES)
    if type_code in FLOATS + DECIMALS:
        return rng.choice(ODD_REALS)
    if type_code in (*INTEGERS, T.YEAR):
        return rng.choice(ODD_NUMBERS)
    return rng.choice((b"\xff", b"\xc3", b"\xe9", b"\x80", b"\xf0\x9f", b"\xed\xa0\x80"))
