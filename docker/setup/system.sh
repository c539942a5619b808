#!/bin/sh
# system.sh APT_MIRROR PACKAGE...: Debian and Ubuntu packages, from another mirror where one is given, and certificates.
set -eu
mirror=$1
shift
if [ -n "$mirror" ]; then
  # Security updates stay where they are: mirrors of the main archive seldom carry them under the same path.
  for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -f "$list" ] || continue
    sed -i -E "s#https?://(deb\.debian\.org/debian|[a-z.]*archive\.ubuntu\.com/ubuntu|ports\.ubuntu\.com/ubuntu-ports)(/| |\$)#$mirror\2#g" "$list"
  done
fi
# A third-party list in the base image (CUDA's) is not needed and may be out of reach.
for list in /etc/apt/sources.list.d/cuda*.list /etc/apt/sources.list.d/nvidia*.list; do
  [ -f "$list" ] && mv "$list" "$list.off"
done
# The builder's cache (BuildKit) is kept, in spite of the rules by which Debian's and Ubuntu's images empty it.
keep=
if mountpoint -q /var/cache/apt; then
  keep="-c /tmp/keep.conf"
  printf '%s\n' '#clear DPkg::Post-Invoke;' '#clear APT::Update::Post-Invoke;' 'APT::Keep-Downloaded-Packages "true";' > /tmp/keep.conf
fi
apt-get $keep update -qq
apt-get $keep install -y -qq --no-install-recommends ca-certificates "$@"
if [ -z "$keep" ]; then
  apt-get clean
  rm -rf /var/lib/apt/lists/*
fi
rm -f /tmp/keep.conf
[ -s /usr/local/share/ca-certificates/extra.crt ] || rm -f /usr/local/share/ca-certificates/extra.crt
update-ca-certificates
if [ -f /usr/local/share/ca-certificates/extra.crt ]; then
  # A whole bundle is taken as it is: update-ca-certificates reads one certificate a file.
  cat /usr/local/share/ca-certificates/extra.crt >> /etc/ssl/certs/ca-certificates.crt
fi
