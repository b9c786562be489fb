"""What Django itself serves in the trial: the admin, and a page for the debug toolbar."""

from django.contrib import admin
from django.http import HttpResponse
from django.urls import include, path

from tests.thirdparty.models import Book

admin.site.register(Book)


def page(request):
    return HttpResponse(f"<html><body>{Book.objects.count()} books</body></html>")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("page/", page),
    path("__debug__/", include("debug_toolbar.urls")),
]
