"""Two hosts that this machine plays: network namespaces, each with a name and an address of its own, and a link between
them that may be as slow as wanted. All of it is gone when the last process in it has ended.
"""
import functools
import shutil
import subprocess
import sys

from bench.survive import mpiexec

# sh -c UP RATE COMMAND... runs the command on the first host. mpiexec calls launch as it would ssh, for the other.
UP = r"""
set -e
mount -t tmpfs none /run
mkdir /run/netns
for k in 1 2; do ip netns add host$k; done
ip link add eth0 netns host1 type veth peer name eth0 netns host2
for k in 1 2; do
    ip -n host$k link set lo up
    ip -n host$k addr add 10.0.0.$k/24 dev eth0
    ip -n host$k link set eth0 up
    [ $0 = unlimited ] || ip netns exec host$k tc qdisc add dev eth0 root tbf rate $0 burst 16kb latency 100ms
done
for k in 1 2; do until ip -n host$k link show eth0 | grep -q "state UP"; do sleep 0.05; done; done
cat > /run/launch <<'END'
#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
name=host${1##*.}
shift
exec unshare -u sh -c "hostname $name; exec ip netns exec $name $*"
END
chmod +x /run/launch
exec ip netns exec host1 "$@"
"""


def inside(words, rate="unlimited"):
    """The command that runs words on the first of two hosts. rate: of their link, in tc's words, such as 1gbit."""
    return ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", UP, rate, *words]


def ranks(words, rate="unlimited"):
    """The command that runs words as two ranks of MPICH, one on each host, which talk by TCP."""
    how = ("-n 2 -ppn 1 -hosts 10.0.0.1,10.0.0.2 -launcher ssh -launcher-exec /run/launch "
           "-genv UCX_TLS tcp,self -genv UCX_NET_DEVICES eth0")
    return inside([mpiexec(), *how.split(), *words], rate)


@functools.cache
def refused(rate="1gbit"):
    """Why there can be no two hosts here, or "" if there can."""
    lacking = [name for name in ("unshare", "ip", "tc") if shutil.which(name) is None]
    if sys.platform != "linux" or lacking:
        return f"no {' and no '.join(lacking) or 'Linux'}"
    if "HYDRA" not in subprocess.run([mpiexec() or "true", "--version"], capture_output=True, text=True).stdout:
        return "no mpiexec of MPICH"
    try:
        done = subprocess.run(inside(["true"], rate), capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "the link between two namespaces does not come up"
    return (done.stderr.strip() or f"exit status {done.returncode}") if done.returncode else ""
