# Debian's Prometheus, for a cluster that cannot reach a registry; elsewhere the chart takes the official image.
FROM debian:bookworm-slim AS package
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus

FROM debian:bookworm-slim
COPY --from=package /usr/bin/prometheus /usr/bin/
USER 10001:10001
EXPOSE 9090
ENTRYPOINT ["prometheus"]
