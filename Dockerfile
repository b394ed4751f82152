# settled in a container: built from source, shipped with its libraries alone.
#
#   docker build -t settled .
#   key=$(openssl rand -hex 32)
#   docker run -d --rm --name settled --read-only --cap-drop ALL -p 127.0.0.1:8080:8080 -v settled-data:/var/lib/settled \
#       -e SETTLED_KEY_SHA256=$(printf %s "$key" | sha256sum | cut -c1-64) settled
#
# What it starts with is deploy/container.yaml: mount another file over
# /etc/settled/settled.yaml for services and keys of your own.

FROM debian:bookworm-slim AS build
COPY deploy/packages.sh /tmp/packages.sh
RUN bash -euo pipefail -c '. /tmp/packages.sh; install_packages "${PACKAGES_BUILD[@]}"'
WORKDIR /src
COPY meson.build meson_options.txt ./
COPY api api
COPY lib lib
COPY cmd cmd
RUN meson setup /build --buildtype=release --prefix=/usr/local -Dtests=false \
    && DESTDIR=/out meson install -C /build --strip

FROM debian:bookworm-slim AS runtime
COPY deploy/packages.sh /tmp/packages.sh
RUN bash -euo pipefail -c '. /tmp/packages.sh; install_packages "${PACKAGES_RUN[@]}"' \
    && rm -rf /tmp/packages.sh /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log

# The programmable downstream, to try settled on: docker build --target downstream .
FROM runtime AS downstream
COPY --from=build /out/usr/local/bin/settled-downstream /usr/local/bin/settled-downstream
USER 65532:0
EXPOSE 9090
ENTRYPOINT ["/usr/local/bin/settled-downstream", "--listen", "0.0.0.0:9090"]

FROM runtime AS settled
LABEL org.opencontainers.image.title="settled" \
      org.opencontainers.image.description="Dispatches batches of notifications and tells the truth about every item" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
COPY --from=build /out/usr/local/bin/settled /usr/local/bin/settled
COPY deploy/container.yaml /etc/settled/settled.yaml
# Any user of group 0, which is the group of whoever is given without one; a user
# with another group needs a volume of its own.
RUN chmod 0644 /etc/settled/settled.yaml && install -d -m 0770 -o 65532 -g 0 /var/lib/settled
# The drain stays below the 10 s that `docker stop` grants.
ENV SETTLED_CONFIG=/etc/settled/settled.yaml \
    SETTLED_LISTEN=0.0.0.0:8080 \
    SETTLED_STORE=/var/lib/settled \
    SETTLED_LOG_FORMAT=json \
    SETTLED_LOG_LEVEL=info \
    SETTLED_LAME_DUCK_MS=0 \
    SETTLED_DRAIN_MS=8000
USER 65532:0
WORKDIR /var/lib/settled
VOLUME /var/lib/settled
EXPOSE 8080
STOPSIGNAL SIGTERM
# It reads the same configuration as the daemon, and asks the address that it names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/settled", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/settled"]
