"""The users as a REST resource; what may be written, and how, `app.services.users` knows."""

from __future__ import annotations

from django.shortcuts import get_object_or_404

from app.models import User
from app.services import users
from handlers.base import JSONHandler


class UserList(JSONHandler):
    def get(self) -> None:
        self.write_page(User.objects.all(), User.as_dict)

    def post(self) -> None:
        user = users.create_user(self.get_json())
        self.set_status(201)
        self.set_header("Location", f"/api/users/{user.pk}")
        self.write_json(user.as_dict())


class UserBulk(JSONHandler):
    def post(self) -> None:
        created = users.create_users(self.get_json())
        self.set_status(201)
        self.write_json({"items": [user.as_dict() for user in created]})


class UserDetail(JSONHandler):
    def get(self, pk: str) -> None:
        self.write_json(get_object_or_404(User, pk=pk).as_dict())

    def put(self, pk: str) -> None:
        self.write_json(users.update_user(int(pk), self.get_json(), partial=False).as_dict())

    def patch(self, pk: str) -> None:
        self.write_json(users.update_user(int(pk), self.get_json(), partial=True).as_dict())

    def delete(self, pk: str) -> None:
        users.delete_user(int(pk))
        self.set_status(204)
