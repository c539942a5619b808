#!/bin/sh
# What every command in the image starts with: says in one line what would otherwise fail much later.
set -eu
if [ -n "${NEED_SHM_GIB:-}" ]; then
  have=$(df -k /dev/shm | awk 'NR == 2 { print $2 }')
  if [ "$have" -lt $((NEED_SHM_GIB * 1048576)) ]; then
    echo "error: /dev/shm has $((have / 1024)) MiB, data loading of this variant needs $NEED_SHM_GIB GiB: --shm-size=${NEED_SHM_GIB}g (SHM_SIZE=${NEED_SHM_GIB}g)" >&2
    exit 2
  fi
fi
# A `docker run` typed by hand starts as root: the command becomes whoever owns the mounted tree, so that it may write there and
# what it writes is theirs. Root stays root where the tree is root's, as a rootless engine shows the caller's files.
if [ "$(id -u)" = 0 ] && [ "$0" = /opt/setup/enter.sh ]; then  # in an image, not where tests call this file
  owner=1000:1000
  for tree in /workspace/UniAD_train/UniAD /workspace/UniAD "$PWD"; do
    if mountpoint -q "$tree"; then owner=$(stat -c %u:%g "$tree"); break; fi
  done
  uid=${owner%:*} gid=${owner#*:}
  if [ "$uid" != 0 ]; then
    # Programs that ask for a name (git, ssh, the prompt) get one; a terminal stays theirs to open.
    getent passwd "$uid" > /dev/null || echo "uniad:x:$uid:$gid::$HOME:/bin/bash" >> /etc/passwd
    if terminal=$(tty); then chown "$uid" "$terminal"; fi
    exec setpriv --reuid "$uid" --regid "$gid" --clear-groups sh "$0" "$@"
  fi
fi
if [ ! -w "$HOME" ]; then
  echo "error: HOME=$HOME cannot be written to by user $(id -u)" >&2
  exit 2
fi
exec "$@"
