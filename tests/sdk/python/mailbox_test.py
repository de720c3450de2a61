"""Mailboxes with the Python client library, unmodified.

Every test has a server of its own, so that it can be killed. MILLPOND_BINARY is the program; MILLPOND_SCRATCH is a folder
on a disk, as the log refuses file systems in memory.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request
from collections.abc import Callable

from centrifuge import Client, ClientEventHandler

PATIENCE_S = 20.0
API_KEY = "test-api-key"
SECRET = "secret"


def settings(pings: bool) -> dict:
    return {
        "client": {
            "ping_interval": "1s" if pings else "0s",
            "pong_timeout": "500ms",
            "token": {"hmac_secret_key": SECRET},
            "subscribe_to_user_personal_channel": {"enabled": True},
        },
        "mailbox": {"enabled": True, "replay_page": 100, "ack_by_pong": pings},
    }


def token(user: str) -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    head = part(b'{"alg":"HS256","typ":"JWT"}') + "." + part(json.dumps({"sub": user}).encode())
    return head + "." + part(hmac.digest(SECRET.encode(), head.encode(), hashlib.sha256))


class Gateway:
    """A millpond with its log in a folder of its own."""

    def __init__(self, config: dict) -> None:
        self.folder = tempfile.mkdtemp(prefix="mailbox-", dir=os.environ["MILLPOND_SCRATCH"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % probe.getsockname()[1]
        config = config | {
            "http_server": {"internal_port": 0},
            "http_api": {"key": API_KEY},
            "server": {"max_connections": 1000},
            "storage": {"path": self.folder + "/log", "segment_size": "1MiB"},
        }
        with open(self.folder + "/config.json", "w") as file:
            json.dump(config, file)
        self.start()

    def start(self) -> None:
        command = [os.environ["MILLPOND_BINARY"], "serve", "--shards", "2", "--listen", self.address]
        with open(self.folder + "/output", "a") as output:
            self.process = subprocess.Popen(
                [*command, "--config", self.folder + "/config.json"],
                stdout=output,
                stderr=output,
                # Variables of this run would be taken for settings of the gateway.
                env={name: text for name, text in os.environ.items() if not name.startswith("MILLPOND_")},
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self.answers():
            with open(self.folder + "/output") as output:
                assert self.process.poll() is None, output.read()
            assert time.monotonic() < deadline, "the gateway does not answer"
            time.sleep(0.01)

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://{self.address}/health", timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def api(self, method: str, params: dict) -> dict:
        request = urllib.request.Request(
            f"http://{self.address}/api/{method}",
            json.dumps(params).encode(),
            {"Content-Type": "application/json", "X-API-Key": API_KEY},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            answer = json.load(response)
        assert "result" in answer, answer
        return answer["result"]

    def send_numbers(self, user: str, numbers: range) -> None:
        for start in range(0, len(numbers), 250):
            some = numbers[start : start + 250]
            commands = [{"send": {"user": user, "data": {"number": number}}} for number in some]
            for reply in self.api("batch", {"commands": commands})["replies"]:
                assert reply["send"]["offset"] > 0, reply

    def waiting(self, user: str, device: str = "") -> int:
        info = self.api("mailbox_info", {"user": user, "device": device})
        return info["offset"] - info["cursor"]


class Device(ClientEventHandler):
    """A client of a user, with everything that its mailbox delivers."""

    def __init__(self, gateway: Gateway, user: str, use_protobuf: bool, data: dict | None = None) -> None:
        self.numbers: list[int] = []
        self.channel = "#" + user
        if data is not None and use_protobuf:
            data = json.dumps(data).encode()
        self.use_protobuf = use_protobuf
        self.client = Client(
            f"ws://{gateway.address}/connection/websocket",
            token=token(user),
            use_protobuf=use_protobuf,
            events=self,
            data=data,
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.3,
            proxy=None,
        )

    async def on_publication(self, ctx) -> None:
        assert ctx.channel == self.channel, ctx
        data = ctx.pub.data
        self.numbers.append((json.loads(data) if self.use_protobuf else data)["number"])

    async def count(self, wanted: int) -> None:
        await until(lambda: len(self.numbers) >= wanted, lambda: f"{wanted} messages, there were {len(self.numbers)}")


async def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "this did not come: " + what()
        await asyncio.sleep(0.02)


class Mailboxes(unittest.IsolatedAsyncioTestCase):
    def gateway(self, pings: bool = True) -> Gateway:
        gateway = Gateway(settings(pings))
        self.addCleanup(gateway.end)
        return gateway

    def device(self, gateway: Gateway, user: str, use_protobuf: bool, data: dict | None = None) -> Device:
        device = Device(gateway, user, use_protobuf, data)
        self.addAsyncCleanup(device.client.disconnect)
        return device

    async def acknowledged(self, gateway: Gateway, user: str, device: str = "") -> None:
        await until(lambda: gateway.waiting(user, device) == 0, lambda: "everything acknowledged by pong")

    async def test_a_thousand_messages_wait_and_come_in_order_once(self) -> None:
        gateway = self.gateway()
        for use_protobuf in (False, True):
            with self.subTest(use_protobuf=use_protobuf):
                user = f"user{use_protobuf}"
                gateway.send_numbers(user, range(1, 1001))
                device = self.device(gateway, user, use_protobuf)
                await device.client.connect()
                await device.count(1000)
                gateway.send_numbers(user, range(1001, 1004))
                await device.count(1003)
                self.assertEqual(device.numbers, list(range(1, 1004)))
                await self.acknowledged(gateway, user)
                await device.client.disconnect()
                again = self.device(gateway, user, use_protobuf)
                await again.client.connect()
                gateway.send_numbers(user, range(1004, 1005))
                await again.count(1)
                self.assertEqual(again.numbers, [1004])

    async def test_a_killed_client_gets_the_rest_on_the_next_connect(self) -> None:
        gateway = self.gateway(pings=False)
        gateway.send_numbers("ann", range(1, 1001))
        first = self.device(gateway, "ann", False)
        await first.client.connect()
        await first.count(300)
        await first.client.rpc("mailbox.ack", {"offset": 300})
        # The process that knew more is gone: a new one knows nothing but its user.
        await first.client.disconnect()
        second = self.device(gateway, "ann", False)
        await second.client.connect()
        await second.count(700)
        self.assertEqual(second.numbers, list(range(301, 1001)))

    async def test_a_killed_server_loses_nothing(self) -> None:
        gateway = self.gateway()
        gateway.send_numbers("ann", range(1, 501))
        gateway.kill()
        gateway.start()
        device = self.device(gateway, "ann", True)
        await device.client.connect()
        await device.count(500)
        gateway.kill()
        gateway.start()
        gateway.send_numbers("ann", range(501, 1001))
        await device.count(1000)
        self.assertEqual(device.numbers, list(range(1, 1001)))
        await self.acknowledged(gateway, "ann")

    async def test_devices_have_cursors_of_their_own(self) -> None:
        gateway = self.gateway()
        phone = self.device(gateway, "ann", False, {"device": "phone"})
        laptop = self.device(gateway, "ann", True, {"device": "laptop"})
        for device in (phone, laptop):
            await device.client.connect()
            await device.client.ready()
        gateway.send_numbers("ann", range(1, 4))
        for name, device in (("phone", phone), ("laptop", laptop)):
            await device.count(3)
            await self.acknowledged(gateway, "ann", name)
        await laptop.client.disconnect()
        gateway.send_numbers("ann", range(4, 11))
        await phone.count(10)
        await self.acknowledged(gateway, "ann", "phone")
        self.assertEqual(gateway.waiting("ann", "laptop"), 7)
        rebooted = self.device(gateway, "ann", True, {"device": "laptop"})
        await rebooted.client.connect()
        await rebooted.count(7)
        self.assertEqual(rebooted.numbers, list(range(4, 11)))
        self.assertEqual(phone.numbers, list(range(1, 11)))


if __name__ == "__main__":
    unittest.main()
