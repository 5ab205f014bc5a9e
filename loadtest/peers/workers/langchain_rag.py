"""A LangChain pipeline over the engines that Genmesh uses: Triton's embedder, reranker and generator, and Milvus.

python langchain_rag.py TRITON MILVUS_URL TEMPLATE   (in the peers' environment)

TEMPLATE is the whole prompt as the generator's chat template renders it, with {question} and {passages}.
"""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models.llms import LLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import GenerationChunk
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_milvus import Milvus
from protocol import serve

server = triton.InferenceServerClient(sys.argv[1])
COLLECTION = "langchain_peers"


def column(name: str, texts: list[str]) -> triton.InferInput:
    """A tensor of texts, one a row."""
    array = np.array([[text.encode()] for text in texts], dtype=np.object_)
    tensor = triton.InferInput(name, list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array)
    return tensor


class TritonEmbeddings(Embeddings):
    """Triton's embedder."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = server.infer("embedder", [column("text", texts)]).as_numpy("embedding").tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


class TritonGenerator(LLM):
    """Triton's generator, streamed."""

    max_tokens: int

    @property
    def _llm_type(self) -> str:
        return "triton"

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **more: Any,
    ) -> Iterator[GenerationChunk]:
        inputs = []
        sampling = json.dumps({"max_tokens": self.max_tokens, "temperature": 0.0})
        for name, value in (("text_input", prompt), ("sampling_parameters", sampling), ("stream", True)):
            array = np.array(
                [value if isinstance(value, bool) else value.encode()],
                dtype=None if isinstance(value, bool) else np.object_,
            )
            tensor = triton.InferInput(name, [1], "BOOL" if isinstance(value, bool) else "BYTES")
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        with triton.InferenceServerClient(sys.argv[1]) as client:
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_stream_infer("generator", inputs, enable_empty_final_response=True)
            while True:
                result, error = answers.get(timeout=300)
                if error is not None:
                    raise error
                if result.get_response().outputs:
                    yield GenerationChunk(text=result.as_numpy("text_output")[0].decode())
                if result.get_response().parameters["triton_final_response"].bool_param:
                    return

    def _call(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **more: Any) -> str:
        return "".join(chunk.text for chunk in self._stream(prompt, stop, run_manager, **more))


def reranked(given: dict[str, Any], top: int) -> dict[str, Any]:
    """The best documents by Triton's reranker."""
    question, documents = given["question"], given["documents"]
    texts = [document.page_content for document in documents]
    inputs = [column("query", [question] * len(texts)), column("passage", texts)]
    scores = server.infer("reranker", inputs).as_numpy("score").reshape(-1)
    return {"question": question, "documents": [documents[i] for i in np.argsort(-scores, kind="stable")[:top]]}


def laid_out(given: dict[str, Any]) -> dict[str, str]:
    lines = [f"[{i}] {' '.join(d.page_content.split())}\n" for i, d in enumerate(given["documents"], 1)]
    return {"question": given["question"], "passages": "".join(lines)}


class Rag:
    def __init__(self) -> None:
        self.store = Milvus(
            TritonEmbeddings(), collection_name=COLLECTION, connection_args={"uri": sys.argv[2]}, drop_old=True, auto_id=True,
            index_params={"index_type": "HNSW", "metric_type": "COSINE", "params": {"M": 16, "efConstruction": 128}},
            search_params={"metric_type": "COSINE", "params": {"ef": 64}},
        )  # fmt: skip

    def ingest(self, texts: list[str]) -> int:
        self.store.add_documents([Document(page_content=text) for text in texts])
        self.store.client.flush(COLLECTION)
        return len(texts)

    def chain(self, top: int, candidates: int, rerank: bool, max_tokens: int) -> Runnable[str, str]:
        retriever = self.store.as_retriever(search_kwargs={"k": candidates if rerank else top})
        given: Runnable[Any, Any] = RunnablePassthrough.assign(
            documents=RunnableLambda(lambda g: retriever.invoke(g["question"]))
        )
        if rerank:
            given = given | RunnableLambda(partial(reranked, top=top))
        prompt = PromptTemplate.from_template(sys.argv[3])
        return given | RunnableLambda(laid_out) | prompt | TritonGenerator(max_tokens=max_tokens) | StrOutputParser()

    def answer(
        self, questions: list[str], top: int, candidates: int, rerank: bool, max_tokens: int
    ) -> list[dict[str, Any]]:
        """Each answer, its TTFT and whole time in seconds."""
        chain = self.chain(top, candidates, rerank, max_tokens)
        found = []
        for question in questions:
            begun, first, text = time.monotonic(), 0.0, ""
            for piece in chain.stream({"question": question}):
                if piece:
                    first = first or time.monotonic() - begun
                text += piece
            found.append({"text": text, "ttft": first or time.monotonic() - begun, "seconds": time.monotonic() - begun})
        return found

    def drop(self) -> None:
        self.store.client.drop_collection(COLLECTION)


rag = Rag()
serve({"ingest": rag.ingest, "answer": rag.answer, "drop": rag.drop})
