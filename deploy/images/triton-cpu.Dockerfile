# Triton on a CPU with the models that `make models` built.
# Context: the repository's root after `make models` (`make images` does both).
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY requirements/triton-runtime.txt /tmp/
RUN python3 -m venv /tmp/pip && python3 -m venv --without-pip /opt/triton \
 && /tmp/pip/bin/pip --python /opt/triton/bin/python install --no-cache-dir --no-compile --require-hashes -r /tmp/triton-runtime.txt \
 && find /opt/triton -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
COPY model_repository/serve.py model_repository/cards.py /opt/triton/
COPY .state/models /models
RUN python3 /opt/triton/cards.py --active /models

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends python3-minimal libpython3-stdlib libpython3.11 ca-certificates \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /usr/share/doc /usr/share/man
COPY --from=build /opt/triton /opt/triton
COPY --from=build /models /models
RUN printf '#!/bin/sh\nexec /opt/triton/bin/python /opt/triton/cards.py "$@"\n' >/usr/local/bin/genmesh-cards \
 && chmod 755 /usr/local/bin/genmesh-cards
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TOKENIZERS_PARALLELISM=false HOME=/tmp
USER 10001:10001
EXPOSE 8000 8001 8002
ENTRYPOINT ["/opt/triton/bin/python", "/opt/triton/serve.py", "--models", "/models", "--cache", "/tmp/triton", "--host", "0.0.0.0"]
