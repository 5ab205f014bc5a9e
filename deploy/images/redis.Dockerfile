# Debian's Redis and its exporter, for a cluster that cannot reach a registry; elsewhere the chart takes the official images.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends redis-server prometheus-redis-exporter \
 && ln -s /usr/bin/prometheus-redis-exporter /redis_exporter \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /usr/share/doc /usr/share/man
USER 10001:10001
EXPOSE 6379
ENTRYPOINT ["redis-server"]
