import statistics, pytest
from tests.scenarios.test_backlog import *
@pytest.mark.parametrize("hots", [1, 4, 6, 12, 24])
def test_many(system, hots):
    owners = {one["id"]: one["owner"] for one in system.partitions()}
    mine = owners[0]
    parts = [p for p, o in owners.items() if o == mine]
    hot = [system.name("manyhot", p) for p in parts[:hots]]
    cold = system.name("manycold", parts[-1])
    for n in (*hot, cold): system.open(n, "stock", 1_000_000)
    with system.crowd(1) as crowd:
        for p in parts[:hots]: pause(system, crowd, p, "pause")
        last = None
        per = 60_000 // hots // 1000
        lasts = [accept(system, crowd, [batch(system, h, k * ITEMS) for k in range(per)])[-1] for h in hot]
        idle = [latency(system, crowd, cold) for _ in range(20)]
        for p in parts[:hots]: pause(system, crowd, p, "resume")
        got = []
        while any(crowd.ask([system.client.get(f"/v1/requests/{l}")])[0].document["status"] == "processing" for l in lasts):
            got.append(latency(system, crowd, cold))
        print(hots, "idle", statistics.median(idle)*1e3, "draining", [round(x*1e3) for x in got])
