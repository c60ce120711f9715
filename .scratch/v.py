import subprocess,sys,time
from tests.kernel.agent import AgentProcess, traced, wait_for
from tests.kernel.lab import Lab
from tests.kernel.test_capabilities import granted, confined
from xdpscope.tracing import alteration
lab=Lab()
p=lab.load("decide_by_source_mac","flows"); v=lab.veth("xst0"); lab.attach(p,v)
try:
    print("harmless", len(alteration.harmless_calls()), "alters", alteration.alters_packets(p.instructions(), alteration.harmless_calls()))
except Exception as e: print("ERR",repr(e))
for caps in (None, granted()):
    with AgentProcess("state: {pin_path: /sys/fs/bpf/xst}\nlog: {level: debug}\n", prefix=confined(caps) if caps else ()) as a:
        a.ready(); wait_for(lambda: traced(a,"decide_by_source_mac")); time.sleep(8)
        for l in a.log: print({k:v for k,v in l.items() if k not in("timestamp",)})
        print(subprocess.run("find /sys/fs/bpf/xst; cat /proc/sys/kernel/kptr_restrict /proc/sys/kernel/perf_event_paranoid; grep -c . /proc/kallsyms",shell=True,capture_output=True,text=True).stdout)
        a.stop()
    subprocess.run("rm -r /sys/fs/bpf/xst",shell=True)
