"""Server-rendered pages over the store's named queries: what ran, what it cost, how it ended."""

from tocsin.dashboard.deps import (
    DashboardDeps,
    IssuedKey,
    IssueKey,
    PolicyView,
    RevokeKey,
    SettingsView,
    UpstreamView,
)
from tocsin.dashboard.login import login_response, render_login
from tocsin.dashboard.render import CONTENT_SECURITY_POLICY, PAGE_HEADERS
from tocsin.dashboard.routes import ROUTES, not_found, routes
from tocsin.dashboard.view import PageRoute

__all__ = [
    "CONTENT_SECURITY_POLICY",
    "PAGE_HEADERS",
    "ROUTES",
    "DashboardDeps",
    "IssueKey",
    "IssuedKey",
    "PageRoute",
    "PolicyView",
    "RevokeKey",
    "SettingsView",
    "UpstreamView",
    "login_response",
    "not_found",
    "render_login",
    "routes",
]
