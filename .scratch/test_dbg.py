import json,time
from tests.kernel.test_page import *
def test_dbg(lab, agent):
    for i in range(3):
        veth = lab.veth("xst0")
        p=lab.load("decide_drop"); lab.attach(p, veth)
        wait_for(lambda: traced(agent, "decide_drop"))
        veth.send(frame(60), times=7)
        for k in range(4):
            s=json.loads(agent.get("/api/v1/programs"))
            o=[x for x in s if x["program"]=="decide_drop"]
            m=[l for l in agent.get("/metrics").decode().splitlines() if l.startswith("xdp_packets_total") and "drop\"" in l]
            print(i,k,o,m, [l for l in agent.get("/metrics").decode().splitlines() if "traced{" in l])
            time.sleep(.3)
        lab.attach(None, veth); p.close(); lab.delete(veth)
        wait_for(lambda: b"decide_drop" not in agent.get("/metrics"))
    assert 0
