# Triton on NVIDIA GPUs: the vendor's image with the vLLM backend, and the models of the GPU profile.
# Context: the repository's root after `genmesh-models build --profile gpu --into .state/models-gpu`.
FROM nvcr.io/nvidia/tritonserver:25.10-vllm-python-py3 AS models
COPY model_repository/cards.py /opt/triton/
COPY .state/models-gpu /models
RUN python3 /opt/triton/cards.py --active /models

FROM nvcr.io/nvidia/tritonserver:25.10-vllm-python-py3
COPY requirements/triton-gpu.txt /tmp/
RUN pip install --no-cache-dir --no-deps --require-hashes -r /tmp/triton-gpu.txt && rm /tmp/triton-gpu.txt
COPY model_repository/cards.py /opt/triton/
COPY --from=models /models /models
RUN printf '#!/bin/sh\nexec python3 /opt/triton/cards.py "$@"\n' >/usr/local/bin/genmesh-cards \
 && chmod 755 /usr/local/bin/genmesh-cards
# torch names its cache after the user, and this one has no entry in /etc/passwd.
ENV PYTHONUNBUFFERED=1 HOME=/tmp HF_HUB_OFFLINE=1 LOGNAME=triton TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
USER 10001:10001
WORKDIR /models
EXPOSE 8000 8001 8002
ENTRYPOINT ["tritonserver", "--model-repository=/models", "--model-control-mode=explicit", "--load-model=*", "--grpc-http2-min-recv-ping-interval-without-data=5000", "--grpc-keepalive-permit-without-calls=1"]
