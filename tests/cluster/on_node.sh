#!/bin/bash
# on_node.sh NODE.NETWORK COMMAND...: run a command on a node, a network namespace with a name of its
# own. nsenter, not `ip netns exec`, which mounts another /sys, where slurmd finds no cgroups.
node=$1
shift
exec nsenter --net="/run/netns/$node" unshare --uts --mount bash -c \
  'hostname "${0%%.*}" && mount --bind "/etc/netns/$0/hosts" /etc/hosts && exec "$@"' "$node" "$@"
