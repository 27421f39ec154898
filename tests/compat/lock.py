"""Ten concurrent clients compete for one lock: one gets it, nine do not; it releases after 2 s."""

import sys
import threading
import time

import consul

host = sys.argv[1]
won, released = [], []
start = threading.Barrier(10)


def compete():
    client = consul.Consul(host=host)
    session = client.session.create(ttl=10, behavior="delete")
    start.wait()
    got = client.kv.put("my-key", session, acquire=session)
    won.append(got)
    if got:
        time.sleep(2)
        released.append(client.kv.put("my-key", session, release=session))


threads = [threading.Thread(target=compete) for _ in range(10)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert sorted(won) == [False] * 9 + [True], won
assert released == [True], released
