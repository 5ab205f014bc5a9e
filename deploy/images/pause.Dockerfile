# The program that holds a pod's namespaces open, for a cluster without a registry. Context: the folder of its binary.
FROM scratch
COPY pause /pause
USER 65535:65535
ENTRYPOINT ["/pause"]
