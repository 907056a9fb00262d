"""A stand-in for Nacos: the HTTP that its clients use, as its source has it, and nothing behind it.

It is not Nacos. It answers register, beat, deregister, list and login of v1 and v3, forgets instances that do not
beat, and can be told to ask for a password or to be another release.
"""

import json
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit

import h11
import trio

V1, V3 = "/nacos/v1/ns/instance", "/nacos/v3/client/ns/instance"
LOGINS = {"/nacos/v1/auth/login", "/nacos/v3/auth/user/login"}
NOT_FOUND, FORBIDDEN, OK = 404, 403, 200


class FakeNacos:
    """`apis`: the versions that it has. `instances` by (namespace, group@@service, ip, port)."""

    def __init__(self, apis=("v1", "v3"), password=None, forget_after_s=30.0):
        self.apis = apis
        self.password = password
        self.forget_after_s = forget_after_s
        self.instances = {}
        self.calls = []

    async def serve(self, stream):
        connection = h11.Connection(h11.SERVER)
        async with stream:
            while True:
                request, body = None, b""
                while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                    if event is h11.NEED_DATA:
                        try:
                            connection.receive_data(await stream.receive_some(65_536))
                        except trio.BrokenResourceError:
                            return
                    elif isinstance(event, h11.Request):
                        request = event
                    elif isinstance(event, h11.Data):
                        body += event.data
                    else:
                        return
                status, answer = self.answer(request.method.decode(), request.target.decode(), body.decode())
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                head = h11.Response(status_code=status, headers=[("Content-Length", str(len(data)))])
                for event in (head, h11.Data(data=data), h11.EndOfMessage()):
                    await stream.send_all(connection.send(event))
                connection.start_next_cycle()

    def answer(self, method, target, body):
        path, params = urlsplit(target).path, dict(parse_qsl(urlsplit(target).query))
        self.calls.append((method, path))
        if path in LOGINS:
            form = dict(parse_qsl(body))
            if (form.get("username"), form.get("password")) != ("nacos", self.password):
                return FORBIDDEN, "unknown user!"
            return OK, {"accessToken": "a token", "tokenTtl": 18_000}
        api = "v3" if path.startswith(V3) else "v1" if path.startswith(V1) else None
        if api not in self.apis:
            return NOT_FOUND, {"status": NOT_FOUND, "error": "Not Found"}
        if self.password is not None and params.get("accessToken") != "a token":
            return FORBIDDEN, {"code": FORBIDDEN, "message": "access denied"}
        return OK, self.act(api, method, path.removeprefix(V3).removeprefix(V1), params)

    def act(self, api, method, rest, params):
        now = trio.current_time()
        self.instances = {k: v for k, v in self.instances.items() if now - v["beat"] < self.forget_after_s}
        service = params["serviceName"]
        if "@@" not in service:
            service = f"{params['groupName']}@@{service}"
        place = (params["namespaceId"], service)
        if rest == "/list":
            hosts = [
                {"ip": key[2], "port": int(key[3]), "healthy": True, "enabled": True, "metadata": held["metadata"]}
                for key, held in self.instances.items()
                if key[:2] == place
            ]
            return {"code": 0, "data": hosts} if api == "v3" else {"name": service, "hosts": hosts}
        key = (*place, params["ip"], params["port"])
        if method == "DELETE":
            self.instances.pop(key, None)
        elif rest == "/beat" or params.get("heartBeat") == "true":
            if key not in self.instances:
                return {"code": 21003, "data": None} if api == "v3" else {"code": 20404, "clientBeatInterval": 5_000}
            self.instances[key]["beat"] = now
        else:
            self.instances[key] = {"beat": now, "metadata": json.loads(params["metadata"])}
        return {"code": 0, "data": "ok"} if api == "v3" else ({"code": 10200} if rest == "/beat" else "ok")


@asynccontextmanager
async def running_nacos(fake, port=0):
    """Serve it; its address."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve_here, fake.serve, port)
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def serve_here(handler, port, task_status=trio.TASK_STATUS_IGNORED):
    await trio.serve_tcp(handler, port, host="127.0.0.1", task_status=task_status)
