"""What py-consul's users do most: KV, blocking reads, sessions, services, checks, health, catalog."""

import sys
import threading
import time

import consul

host = sys.argv[1]
client = consul.Consul(host=host)

# KV
index, entry = client.kv.get("py/missing")
assert entry is None and int(index) >= 1
assert client.kv.put("py/a", "one", flags=7)
index, entry = client.kv.get("py/a")
assert entry["Value"] == b"one" and entry["Flags"] == 7, entry
assert not client.kv.put("py/a", "two", cas=0)
assert client.kv.put("py/a", "two", cas=entry["ModifyIndex"])
client.kv.put("py/b/c", "three")
assert client.kv.get("py/", keys=True, separator="/")[1] == ["py/a", "py/b/"]
assert len(client.kv.get("py/", recurse=True)[1]) == 2

# A blocking read
index, _ = client.kv.get("py/a")
threading.Timer(0.5, lambda: consul.Consul(host=host).kv.put("py/a", "changed")).start()
start = time.monotonic()
after, entry = client.kv.get("py/a", index=index, wait="20s")
assert entry["Value"] == b"changed" and int(after) > int(index)
assert 0.3 < time.monotonic() - start < 10
assert client.kv.delete("py/", recurse=True)
assert client.kv.get("py/", recurse=True)[1] is None

# Sessions
session = client.session.create("py", ttl=15, lock_delay=1)
assert client.session.info(session)[1]["Name"] == "py"
assert client.session.renew(session)["TTL"] == "15s"
assert len(client.session.list()[1]) == 1
assert client.kv.put("py/lock", "x", acquire=session)
assert client.kv.get("py/lock")[1]["Session"] == session
assert client.session.destroy(session)
assert "Session" not in client.kv.get("py/lock")[1]

# Services, checks, health, catalog
client.agent.service.register(
    "py-web", service_id="py-web-1", address="10.0.0.5", port=80, tags=["t"],
    check=consul.Check.ttl("30s"),
)
assert client.agent.services()["py-web-1"]["Port"] == 80
client.agent.check.ttl_pass("service:py-web-1", "fine")
for _ in range(200):
    _, nodes = client.health.service("py-web", passing=True)
    if nodes:
        break
    time.sleep(0.05)
assert nodes[0]["Service"]["Address"] == "10.0.0.5", nodes
assert client.catalog.services()[1]["py-web"] == ["t"]
assert client.catalog.datacenters() == ["dc1"]
assert len(client.catalog.nodes()[1]) == 1
client.agent.maintenance(True, "py")
client.agent.maintenance(False)
client.agent.service.deregister("py-web-1")
assert "py-web-1" not in client.agent.services()
assert client.status.leader().endswith(":8300")
assert client.agent.self()["Config"]["Server"] is True
