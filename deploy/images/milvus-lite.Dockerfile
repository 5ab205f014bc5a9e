# Milvus Lite's engine behind vector_store.py: the vector store of small installations, one process over one volume.
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY requirements/milvus-lite.txt /tmp/
# Compiled: searches wait while it starts.
RUN python3 -m venv /tmp/pip && python3 -m venv --without-pip /opt/milvus \
 && /tmp/pip/bin/pip --python /opt/milvus/bin/python install --no-cache-dir --compile --require-hashes -r /tmp/milvus-lite.txt

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends python3-minimal libpython3-stdlib \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /usr/share/doc /usr/share/man
COPY --from=build /opt/milvus /opt/milvus
COPY deploy/images/vector_store.py /opt/milvus/vector_store.py
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 10001:10001
EXPOSE 19530
ENTRYPOINT ["/opt/milvus/bin/python", "/opt/milvus/vector_store.py"]
CMD ["--data-dir", "/data", "--host", "0.0.0.0", "--port", "19530"]
