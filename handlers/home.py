"""The home page: what there is to see, and why."""

from handlers.base import PageHandler


class Home(PageHandler):
    def get(self) -> None:
        self.render_django("home.html")
