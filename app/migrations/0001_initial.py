# ruff: noqa: RUF012

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Author",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=100, unique=True)),
            ],
            options={
                "ordering": ("name",),
            },
        ),
        migrations.CreateModel(
            name="Fortune",
            fields=[
                ("id", models.PositiveIntegerField(primary_key=True, serialize=False)),
                ("message", models.CharField(max_length=2048)),
            ],
            options={
                "db_table": "fortune",
            },
        ),
        migrations.CreateModel(
            name="World",
            fields=[
                ("id", models.PositiveIntegerField(primary_key=True, serialize=False)),
                ("randomnumber", models.IntegerField()),
            ],
            options={
                "db_table": "world",
            },
        ),
        migrations.CreateModel(
            name="Book",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=200, unique=True)),
                ("published", models.PositiveSmallIntegerField(verbose_name="year of publication")),
                ("price", models.DecimalField(decimal_places=2, max_digits=8)),
                (
                    "author",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="books",
                        to="app.author",
                    ),
                ),
            ],
            options={
                "ordering": ("name",),
            },
        ),
    ]
