"""Stands for the agent that devices had before: posts heartbeats over HTTP, with the device's token."""

import json
import time
import urllib.request
from datetime import datetime, timezone

with open("/opt/r58-app/shared/config/fleet.conf", encoding="utf-8") as file:
    pairs = (line.split("=", 1) for line in file if "=" in line and not line.startswith("#"))
    config = {key.strip(): value.strip() for key, value in pairs}

while True:
    body = {"ts": datetime.now(timezone.utc).isoformat(), "version": "older", "status": {"recording_active": False}}
    request = urllib.request.Request(
        f"{config['FLEET_URL']}/api/v1/devices/{config['DEVICE_ID']}/heartbeat",
        data=json.dumps(body).encode(),
        headers={"X-Device-Token": config["DEVICE_TOKEN"], "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            answer.read()
    except OSError as error:
        print(error, flush=True)
    time.sleep(int(config["HEARTBEAT_INTERVAL"]))
