# One image for controller, node service and workers. The node service needs no fusermount3: it mounts itself.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Beside the program: directories that it writes in, and names of users.
RUN cargo build --release --locked -p stead-cli \
 && install -D -m 755 target/release/stead /image/usr/bin/stead \
 && install -d -m 1777 /image/tmp \
 && install -d -m 755 -o 65532 -g 65532 /image/var/cache/stead /image/run/stead \
 && install -d -m 700 /image/var/lib/steadfast \
 && printf 'root:x:0:0::/:/none\nnonroot:x:65532:65532::/:/none\n' >/tmp/passwd \
 && printf 'root:x:0:\nnonroot:x:65532:\n' >/tmp/group \
 && install -D -m 644 -t /image/etc /tmp/passwd /tmp/group

# glibc, libgcc and certificates; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12
COPY --from=build /image/ /
# The node service alone runs as root: its manifest says so (runAsUser: 0).
USER 65532:65532
ENTRYPOINT ["/usr/bin/stead"]
CMD ["--help"]
