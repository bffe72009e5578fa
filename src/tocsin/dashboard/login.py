"""The sign-in page: the dashboard draws it, the gateway checks what it sends."""

from starlette.responses import Response

from tocsin.dashboard import render


def render_login(error: str = "", *, next_path: str = "/", csrf: str = "") -> str:
    """The sign-in page as HTML. ``next_path``, a path of ours, is where a good key leads."""
    inside = next_path.startswith("/") and not next_path.startswith(("//", "/\\"))
    return (
        render.environment()
        .get_template("login.html")
        .render(error=error, next_path=next_path if inside else "/", csrf=csrf)
    )


def login_response(
    error: str = "", *, next_path: str = "/", csrf: str = "", status: int = 200
) -> Response:
    """``render_login`` as a response with the headers of every page."""
    html = render_login(error, next_path=next_path, csrf=csrf)
    return render.respond(html, "text/html; charset=utf-8", status)
