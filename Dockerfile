# settled in a container: built from source, shipped with its libraries alone.
#
#   docker build -t settled .
#   docker run --rm --read-only -p 127.0.0.1:8080:8080 -v "$PWD/deploy/container.yaml:/etc/settled.yaml:ro" \
#       -e SETTLED_CONFIG=/etc/settled.yaml -v settled-data:/var/lib/settled settled

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

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="settled" \
      org.opencontainers.image.description="Dispatches batches of notifications and tells the truth about every item" \
      org.opencontainers.image.licenses="MIT"
COPY deploy/packages.sh /tmp/packages.sh
RUN bash -euo pipefail -c '. /tmp/packages.sh; install_packages "${PACKAGES_RUN[@]}"' \
    && rm -rf /tmp/packages.sh /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log
COPY --from=build /out/usr/local/bin/settled /usr/local/bin/settled
RUN install -d -m 0700 -o 65532 -g 65532 /var/lib/settled
USER 65532:65532
VOLUME /var/lib/settled
EXPOSE 8080
STOPSIGNAL SIGTERM
# By SETTLED_CONFIG it knows where the daemon listens; --config is the daemon's alone.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["settled", "healthcheck"]
ENTRYPOINT ["settled"]
