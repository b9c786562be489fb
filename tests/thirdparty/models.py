"""One model for each third-party base class that is tried."""

import reversion
from django.contrib.auth.models import User
from django.db import connections, models
from model_utils import FieldTracker
from model_utils.managers import InheritanceManager
from mptt.models import MPTTModel, TreeForeignKey
from simple_history.models import HistoricalRecords
from taggit.managers import TaggableManager
from treebeard.mp_tree import MP_Node


class Author(models.Model):
    name = models.CharField(max_length=100)


@reversion.register()
class Book(models.Model):
    name = models.CharField(max_length=100, unique=True)
    author = models.ForeignKey(Author, models.CASCADE, null=True, blank=True)
    tags = TaggableManager(blank=True)
    history = HistoricalRecords()
    tracker = FieldTracker(fields=["name"])


class Place(models.Model):
    name = models.CharField(max_length=100)
    objects = InheritanceManager()


class Shop(Place):
    owner = models.ForeignKey(User, models.CASCADE, null=True)


class Category(MPTTModel):
    name = models.CharField(max_length=100)
    parent = TreeForeignKey("self", models.CASCADE, null=True, blank=True)


class Node(MP_Node):
    name = models.CharField(max_length=100)


def empty_tables():
    """Empty them all, outside the loop."""
    for model in (Book, Author, Shop, Place, Category, Node, User):
        model.objects.all().delete()
    connections.close_all()
