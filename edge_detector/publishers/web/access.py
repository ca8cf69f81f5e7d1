"""Access: who may ask the server for what."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

from aiohttp import BasicAuth, web
from aiohttp.typedefs import Handler, Middleware

from edge_detector.passwords import check_password, hash_password
from edge_detector.publishers.web.attempts import Attempts
from edge_detector.publishers.web.parameters import read_json
from edge_detector.web_config import WebConfig, is_loopback

logger = logging.getLogger(__name__)

# Endings of names that nobody can register, so that no foreign page can have one of them.
OWN_ENDINGS = ("", ".local", ".lan", ".home", ".internal", ".home.arpa", ".localdomain")
OPEN_PATHS = ("/login", "/healthz", "/readyz")  # and /static/
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
MAX_WAITING = 4  # passwords that are checked at the same time, each for some 50 ms
KEY_BYTES = 32
_REMEMBERED = 64  # passwords of programs that send them with each request


class Access:
    """Middlewares that let requests pass or not, and the handlers of login and logout.

    Host names that are not this machine's are refused, which is a defence against DNS rebinding; so is what changes
    something or opens a WebSocket from a page of another server. If the settings have users or a token, all but the
    login page asks for one of these: a session's cookie, `Authorization: Bearer` or `Basic`.

    `port` tells cookies of several servers on one machine apart.
    """

    def __init__(self, settings: WebConfig, host: str, port: int) -> None:
        self._settings = settings
        self._loopback_only = is_loopback(host)
        own = socket.gethostname().lower().partition(".")[0]
        self._names = {"localhost", socket.gethostname().lower(), *settings.hosts}
        self._names |= set() if self._loopback_only else {own + ending for ending in OWN_ENDINGS}
        self._cookie = f"edge_detector_{port}"
        self._key = session_key() if settings.users else b""
        self._attempts = Attempts()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="web passwords")
        self._waiting = 0
        self._nobody = hash_password(secrets.token_hex()) if settings.users else ""
        self._remembered: set[bytes] = set()
        self._checks: dict[bytes, asyncio.Task[bool]] = {}
        self._memory_key = secrets.token_bytes(32)

    def close(self) -> None:
        """Release the thread that checks passwords."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    @property
    def middlewares(self) -> list[Middleware]:
        """What each request has to pass, in this order."""
        return [self._check_host, self._check_origin, self._check_user]

    async def log_in(self, request: web.Request) -> web.Response:
        """Open a session: `{"user": NAME, "password": TEXT}`."""
        wanted = await read_json(request)
        user, password = wanted.get("user"), wanted.get("password")
        if not (isinstance(user, str) and isinstance(password, str)):
            raise web.HTTPBadRequest(text='send {"user": NAME, "password": TEXT}\n')
        if not await self._is_password(request, user, password):
            raise web.HTTPForbidden(text="wrong user or password\n")
        seconds = int(self._settings.session_days * 86400)
        expiry = f"{int(time.time()) + seconds}"
        response = web.json_response({"user": user})
        response.set_cookie(
            self._cookie,
            f"{user}.{expiry}.{self._signature(user, expiry)}",
            max_age=seconds,
            httponly=True,
            samesite="Strict",
            secure=request.secure,
        )
        return response

    async def log_out(self, _: web.Request) -> web.Response:
        """Have the browser forget its session."""
        response = web.json_response({})
        response.del_cookie(self._cookie)
        return response

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            "".join(request.headers.values()).encode()
        except UnicodeEncodeError:
            raise web.HTTPBadRequest(text="a header is no UTF-8\n") from None
        try:
            parts = urlsplit(f"//{request.headers.get('Host', '')}")
            name = "" if parts.port == 0 else (parts.hostname or "").rstrip(".")
        except ValueError:
            name = ""
        if not self._is_own(name):
            hint = "open this page as http://localhost" if self._loopback_only else "add this name to web.hosts"
            raise web.HTTPMisdirectedRequest(text=f"{hint}\n")
        return await handler(request)

    @web.middleware
    async def _check_origin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what a page of another server has a browser send; programs send no Origin."""
        acts = request.method not in SAFE_METHODS or "Upgrade" in request.headers
        origin = request.headers.get("Origin")
        if acts and origin is not None and origin.partition("://")[2] != request.headers["Host"]:
            raise web.HTTPForbidden(text="pages of other servers may not do that\n")
        return await handler(request)

    @web.middleware
    async def _check_user(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        is_open = request.path in OPEN_PATHS or request.path.startswith("/static/")
        if is_open or not self._settings.is_guarded or await self._is_known(request):
            return await handler(request)
        if request.path == "/" and "text/html" in request.headers.get("Accept", ""):
            raise web.HTTPFound(f"/login?next={quote(request.path_qs)}")
        # Browsers would ask for a password in a window of their own; the page has a better one.
        basic = self._settings.users and "Mozilla/" not in request.headers.get("User-Agent", "")
        challenge = 'Basic realm="edge_detector", charset="UTF-8"' if basic else 'Bearer realm="edge_detector"'
        raise web.HTTPUnauthorized(text="log in first\n", headers={"WWW-Authenticate": challenge})

    def _is_own(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return not self._loopback_only or is_loopback(name)  # a page that came by number is this machine's

    async def _is_known(self, request: web.Request) -> bool:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            token = self._settings.token
            return token is not None and hmac.compare_digest(given.strip().encode(), token.encode())
        if kind.lower() == "basic":
            return await self._is_basic(request)
        user, expiry, signature = (*request.cookies.get(self._cookie, "").split(".", 2), "", "")[:3]
        if user not in self._settings.users or not expiry.isdecimal() or not expiry.isascii():
            return False
        right = hmac.compare_digest(signature.encode(), self._signature(user, expiry).encode())
        return right and time.time() < int(expiry[:12])

    async def _is_basic(self, request: web.Request) -> bool:
        header = request.headers["Authorization"]
        remembered = hmac.digest(self._memory_key, header.encode(errors="surrogateescape"), "sha256")
        if remembered in self._remembered:
            return True
        try:
            given = BasicAuth.decode(header, encoding="utf-8")
        except (ValueError, UnicodeDecodeError):
            return False
        # A dashboard asks for many things at the same time.
        check = self._checks.get(remembered)
        if check is None:
            check = asyncio.create_task(self._is_password(request, given.login, given.password))
            self._checks[remembered] = check
            check.add_done_callback(lambda _: self._checks.pop(remembered))
        right = await asyncio.shield(check)
        if right and len(self._remembered) < _REMEMBERED:
            self._remembered.add(remembered)
        return right

    async def _is_password(self, request: web.Request, user: str, password: str) -> bool:
        """Return whether it is this user's, as slowly for a user that there is not."""
        address = request.remote or ""
        wait_s = self._attempts.wait_s(address)
        if wait_s > 0 or self._waiting >= MAX_WAITING:
            why = "too many wrong passwords" if wait_s > 0 else "too many logins at the same time"
            headers = {"Retry-After": f"{max(1, round(wait_s))}"}
            raise web.HTTPTooManyRequests(text=f"{why}; try again in {headers['Retry-After']} s\n", headers=headers)
        hashed = self._settings.users.get(user, self._nobody)
        if not hashed:
            return False
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            matches = await loop.run_in_executor(self._executor, check_password, password, hashed)
        except UnicodeEncodeError:  # half a character
            matches = False
        finally:
            self._waiting -= 1
        if matches and user in self._settings.users:
            self._attempts.passed(address)
            return True
        self._attempts.failed(address)
        logger.warning("wrong user or password from %s", address)
        return False

    def _signature(self, user: str, expiry: str) -> str:
        """Return what proves a session; a new password ends those that were opened with the old one."""
        signed = f"{user}.{expiry}.{self._settings.users[user]}"
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()


def session_key() -> bytes:
    """Return the secret that sessions are signed with, kept over restarts where there is a place for it.

    That is `session.key` in systemd's `STATE_DIRECTORY`, else in `edge-detector` below `XDG_STATE_HOME`.
    """
    fresh = secrets.token_bytes(KEY_BYTES)
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - may have no home
    path = (Path(given) if given else Path(state) / "edge-detector") / "session.key"
    try:
        kept = path.read_bytes() if path.is_file() else b""
        if len(kept) == KEY_BYTES:
            return kept
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(fresh)
        part.replace(path)
    except OSError as error:
        logger.info("sessions end with the program: %s cannot be used: %s", path, error.strerror)
    return fresh
