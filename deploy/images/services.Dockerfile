# The image of all seven services: `args: [services.NAME]` says which one runs.
# Context: the repository's root after `make proto` (`make images` does both).
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY requirements/services.txt /tmp/
# pip itself stays out of the image; so do tests and byte code of packages, which python makes anew in memory.
RUN python3 -m venv /tmp/pip && python3 -m venv --without-pip /opt/genmesh \
 && /tmp/pip/bin/pip --python /opt/genmesh/bin/python install --no-cache-dir --no-compile --require-hashes -r /tmp/services.txt \
 && find /opt/genmesh -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
COPY clients/python/src/genmesh /opt/genmesh/lib/python3.11/site-packages/genmesh
COPY services /opt/genmesh/lib/python3.11/site-packages/services
# The services' pods run it where the models are on a volume (model_repository/cards.py).
COPY model_repository/cards.py /opt/genmesh/cards.py

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends python3-minimal libpython3-stdlib ca-certificates \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /usr/share/doc /usr/share/man
COPY --from=build /opt/genmesh /opt/genmesh
RUN printf '#!/bin/sh\nexec /opt/genmesh/bin/python /opt/genmesh/cards.py "$@"\n' >/usr/local/bin/genmesh-cards \
 && chmod 755 /usr/local/bin/genmesh-cards
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TOKENIZERS_PARALLELISM=false
USER 10001:10001
EXPOSE 8080 9100
ENTRYPOINT ["/opt/genmesh/bin/python", "-m"]
CMD ["services.gateway"]
