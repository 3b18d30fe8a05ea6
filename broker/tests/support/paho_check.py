"""Talks to a broker under test with paho-mqtt: PORT VERSION. Prints "all good" or fails with the reason."""

import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PORT = int(sys.argv[1])
V5 = sys.argv[2] == "5"
PATIENCE = 10
HEARTBEAT = "fleet/v1/acme/device/cam-1/heartbeat"


class Peer:
    """A client that collects what happens to it."""

    def __init__(self, client_id, username, password, persistent=False, will=None):
        options = {} if V5 else {"clean_session": not persistent}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5 if V5 else mqtt.MQTTv311,
            **options,
        )
        self.persistent = persistent
        self.client.username_pw_set(username, password)
        if will:
            self.client.will_set(*will)
        self.connected, self.subscribed, self.published = queue.Queue(), queue.Queue(), queue.Queue()
        self.messages, self.ended = queue.Queue(), queue.Queue()
        self.client.on_connect = lambda c, u, flags, code, p: self.connected.put((code, flags.session_present))
        self.client.on_subscribe = lambda c, u, mid, codes, p: self.subscribed.put(codes)
        self.client.on_publish = lambda c, u, mid, code, p: self.published.put(code)
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        self.client.on_disconnect = lambda c, u, flags, code, p: self.ended.put(code)

    def connect(self):
        options = {}
        if V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600 if self.persistent else 0
            options = {"clean_start": not self.persistent, "properties": properties}
        self.client.connect("127.0.0.1", PORT, keepalive=30, **options)
        self.client.loop_start()
        return self.connected.get(timeout=PATIENCE)

    def subscribe(self, *filters, qos=1):
        if V5:
            self.client.subscribe([(f, SubscribeOptions(qos=qos)) for f in filters])
        else:
            self.client.subscribe([(f, qos) for f in filters])
        return [code.value for code in self.subscribed.get(timeout=PATIENCE)]

    def publish(self, topic, payload, qos, retain=False):
        self.client.publish(topic, payload, qos, retain)
        return self.published.get(timeout=PATIENCE)

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()


def check(what, actual, expected):
    if actual != expected:
        sys.exit(f"{what}: got {actual!r}, expected {expected!r}")


wrong = Peer("x", "acme/vera", "wrong")
code, _ = wrong.connect()
check("wrong password", code.is_failure, True)
check("its reason", code.getName(), "Bad user name or password")
wrong.leave()

admin = Peer("desk", "acme/ada", "ada-secret", persistent=True)
code, present = admin.connect()
check("connect", (code.is_failure, present), (False, False))
refused = 0x87 if V5 else 0x80
check("suback", admin.subscribe("fleet/v1/acme/#", "fleet/v1/other/#", qos=2), [2, refused])

camera = Peer("acme/cam-1", "acme/cam-1", "cam-1-secret", will=("fleet/v1/acme/device/cam-1/presence", "gone", 1, True))
check("device connects", camera.connect()[0].is_failure, False)
check("own command topic", camera.subscribe("fleet/v1/acme/device/cam-1/command"), [1])
for qos in (0, 1, 2):
    check(f"publish at {qos}", camera.publish(HEARTBEAT, f"beat {qos}", qos).is_failure, False)
    message = admin.messages.get(timeout=PATIENCE)
    check(f"delivery at {qos}", (message.topic, message.payload.decode(), message.qos), (HEARTBEAT, f"beat {qos}", qos))

service = Peer("svc", "fleetd", "fleetd-secret")
service.connect()
service.publish("fleet/v1/acme/device/cam-1/command", "go", 1)
check("command", camera.messages.get(timeout=PATIENCE).payload, b"go")
check("admin sees it", admin.messages.get(timeout=PATIENCE).payload, b"go")

if V5:
    code = camera.publish("fleet/v1/acme/device/cam-2/heartbeat", "evil", 1)
    check("forbidden publish", code.value, 0x87)
    camera.client._sock_close()
    camera.client.loop_stop()
else:
    camera.client.publish("fleet/v1/acme/device/cam-2/heartbeat", "evil", 1)
    check("forbidden publish ends it", camera.ended.get(timeout=PATIENCE).is_failure, True)
    camera.client.loop_stop()
message = admin.messages.get(timeout=PATIENCE)
check("will", (message.topic.rsplit("/", 1)[1], message.payload), ("presence", b"gone"))

admin.leave()
for number in range(3):
    service.publish("fleet/v1/acme/view/cam-1", f"missed {number}", 1, retain=True)
admin = Peer("desk", "acme/ada", "ada-secret", persistent=True)
check("session is present", admin.connect()[1], True)
for number in range(3):
    message = admin.messages.get(timeout=PATIENCE)
    check("missed message", (message.payload.decode(), message.retain), (f"missed {number}", False))
admin.client.unsubscribe("fleet/v1/acme/#")

viewer = Peer("", "acme/vera", "vera-secret")
viewer.connect()
check("retained", viewer.subscribe("fleet/v1/acme/view/+", "fleet/v1/acme/device/+/presence"), [1, 1])
kept = sorted((m.payload.decode(), m.retain) for m in (viewer.messages.get(timeout=PATIENCE) for _ in range(2)))
check("retained messages", kept, [("gone", True), ("missed 2", True)])

for topic in ("fleet/v1/acme/view/cam-1", "fleet/v1/acme/device/cam-1/presence"):
    service.publish(topic, "", 1, retain=True)
for peer in (viewer, service, admin):
    peer.leave()
# The next version begins without a session of this one.
last = Peer("desk", "acme/ada", "ada-secret")
last.connect()
last.leave()
print("all good")
