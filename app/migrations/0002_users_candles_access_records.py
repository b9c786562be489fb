# ruff: noqa: RUF012

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("app", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="User",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("password", models.CharField(max_length=128, verbose_name="password")),
                (
                    "username",
                    models.CharField(
                        max_length=150,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A(?:[A-Za-z0-9_.+-]{1,150})\\Z",
                                "Only letters, digits and _ . + - are allowed.",
                            )
                        ],
                    ),
                ),
                (
                    "email",
                    models.EmailField(
                        max_length=254,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A(?:[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\\.)+[A-Za-z]{2,63})\\Z",
                                "Enter a valid email address, in ASCII.",
                            )
                        ],
                    ),
                ),
                (
                    "full_name",
                    models.CharField(
                        blank=True,
                        default="",
                        max_length=150,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A(?:[^\\x00-\\x1f\\x7f]*)\\Z",
                                "Control characters are not allowed.",
                            )
                        ],
                    ),
                ),
                ("joined", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ("id",),
            },
        ),
        migrations.CreateModel(
            name="AccessRecord",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("time", models.DateTimeField()),
                ("method", models.CharField(max_length=10)),
                ("path", models.CharField(db_index=True, max_length=255)),
                ("query", models.CharField(max_length=1000)),
                ("status", models.PositiveSmallIntegerField()),
                ("address", models.CharField(max_length=45)),
                ("user_agent", models.CharField(max_length=500)),
                ("referrer", models.CharField(max_length=1000)),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="Token",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("symbol", models.CharField(max_length=15, unique=True)),
                ("name", models.CharField(max_length=100)),
            ],
            options={
                "ordering": ("symbol",),
            },
        ),
        migrations.CreateModel(
            name="Candle",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("time", models.DateTimeField()),
                ("open", models.DecimalField(decimal_places=8, max_digits=20)),
                ("high", models.DecimalField(decimal_places=8, max_digits=20)),
                ("low", models.DecimalField(decimal_places=8, max_digits=20)),
                ("close", models.DecimalField(decimal_places=8, max_digits=20)),
                ("volume", models.DecimalField(decimal_places=2, max_digits=20)),
                (
                    "token",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="candles",
                        to="app.token",
                    ),
                ),
            ],
            options={
                "ordering": ("time",),
                "constraints": [
                    models.UniqueConstraint(fields=("token", "time"), name="one_candle")
                ],
            },
        ),
    ]
