#!/usr/bin/env bash
# Makes the images of a cluster from files and imports them:  images.sh [stead PROGRAM TAG | load PROGRAM]
#
# With a program: only the image steadfast/stead:TAG, or test/load:1, from that program. Images of third-party programs are
# kept beside them.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
KEPT=$BIN/../images
mkdir -p "$KEPT" "$RUN/images"

image() {
  local tar=$1
  shift
  "$HERE/mkimage.py" "$tar" "$@"
}

kept() {
  [[ -e $KEPT/$1 ]] || image "$KEPT/$1" "${@:2}"
  ctr images import "$KEPT/$1"
}

stead_image() {
  printf 'root:x:0:0::/:/none\nnonroot:x:65532:65532::/:/none\n' >"$RUN/images/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$RUN/images/group"
  image "$RUN/images/stead-$2.tar" "docker.io/steadfast/stead:$2" program:"$1":/usr/bin/stead entrypoint:/usr/bin/stead \
    user:65532:65532 dir:/tmp dir:/var/lib/steadfast "$RUN/images/passwd":/etc/passwd "$RUN/images/group":/etc/group \
    /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt
  ctr images import "$RUN/images/stead-$2.tar"
}

if [[ ${1-} == stead ]]; then
  stead_image "$2" "$3"
  exit
fi

BUSYBOX=(/bin/busybox:/bin/busybox dir:/tmp dir:/proc dir:/sys dir:/dev dir:/var/run dir:/root)
for applet in $(/bin/busybox --list); do
  [[ $applet == busybox ]] || BUSYBOX+=("link:/bin/busybox:/bin/$applet")
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$RUN/images/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$RUN/images/group"
BUSYBOX+=("$RUN/images/passwd:/etc/passwd" "$RUN/images/group:/etc/group")

if [[ ${1-} == load ]]; then
  image "$RUN/images/load.tar" docker.io/test/load:1 "${BUSYBOX[@]}" program:"$2":/usr/bin/stead-test-load
  ctr images import "$RUN/images/load.tar"
  exit
fi

[[ -x $KEPT/pause ]] || gcc -Os -static -s -o "$KEPT/pause" "$HERE/pause.c"
kept pause.tar registry.k8s.io/pause:3.10 entrypoint:/pause "$KEPT/pause:/pause"
kept busybox.tar docker.io/library/busybox:1.35 "${BUSYBOX[@]}"
for program in csi-provisioner:v6.3.0 csi-resizer:v2.2.0 csi-snapshotter:v8.6.0 snapshot-controller:v8.6.0; do
  name=${program%%:*}
  kept "$name.tar" "registry.k8s.io/sig-storage/$program" entrypoint:"/$name" "$BIN/$name:/$name"
done
# What upstream's suite asks for, by its names.
if [[ -n ${CLUSTER_E2E:-} ]]; then
  kept agnhost.tar registry.k8s.io/e2e-test-images/agnhost:2.59 entrypoint:/agnhost "$CLUSTER_E2E/agnhost:/agnhost" \
    "${BUSYBOX[@]}"
  for name in busybox:1.37.0-1 nginx:1.14-4 nginx:1.15-4; do
    kept "e2e-${name/:/-}.tar" "registry.k8s.io/e2e-test-images/$name" "${BUSYBOX[@]}"
  done
fi
