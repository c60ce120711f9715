ip link add xst0 type veth peer name xst0p; ip link set xst0 up; ip link set xst0p up
timeout -s INT 20 xdp-bench drop xst0 2>&1 | tail -15; echo "rc ${PIPESTATUS[0]}"
xdp-bench --version
