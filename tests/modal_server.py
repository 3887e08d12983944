"""As much of Modal as a deploy, calls, a volume and a queue take, on this machine, for the client.

Speaks the protocol whose definitions come with the client. A function that is called runs in a
thread, from the very bytes that were deployed. Reply fields nobody needs here are left empty.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from grpclib.const import Handler
from grpclib.server import Server
from modal._serialization import deserialize, serialize
from modal_proto import api_grpc, api_pb2

_BLOCK = 8 << 20
_PREFIXES = {
    "secret_id": "st",
    "volume_id": "vo",
    "queue_id": "qu",
    "image_id": "im",
    "app_id": "ap",
}


class ModalServer:
    """The service, with one volume folder per name under `volumes`.

    Attributes:
        url: for `MODAL_SERVER_URL`.
        requests: name and message of every call of the client.
        functions: what was deployed, by app and function name.
        calls: app, function, GPU and timeout of every call of a function.
        fate: what happens to the n-th call instead of running: a status of the protocol.
    """

    def __init__(self, volumes: Path) -> None:
        self.volumes = volumes
        self.requests: list[tuple[str, Any]] = []
        self.functions: dict[tuple[str, str], Any] = {}
        self.calls: list[tuple[str, str, str, int]] = []
        self.fate: dict[int, Any] = {}
        self._ids = 0
        self._apps: dict[str, str] = {}
        self._names: dict[str, tuple[str, str]] = {}
        self._data: dict[tuple[str, str], Any] = {}
        self._options: dict[str, Any] = {}
        self._volume_names: dict[str, str] = {}
        self._queues: dict[tuple[str, bytes], list[bytes]] = {}
        self._results: dict[str, Any] = {}
        self._uploads: dict[str, bytes] = {}
        self._blobs: dict[str, bytes] = {}
        self._torch = threading.Lock()
        self._stop: Callable[[], None] = lambda: None

    # -- running ---------------------------------------------------------------------------------

    def start(self) -> None:
        self._files = ThreadingHTTPServer(("127.0.0.1", 0), self._file_handler())
        threading.Thread(target=self._files.serve_forever, args=[0.01], daemon=True).start()
        ready = threading.Event()

        def run() -> None:
            async def main() -> None:
                server = Server([self])
                await server.start("127.0.0.1", 0)
                port = server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
                self.url = f"http://127.0.0.1:{port}"
                loop = asyncio.get_running_loop()
                self._stop = lambda: loop.call_soon_threadsafe(server.close) and None
                ready.set()
                await server.wait_closed()

            asyncio.run(main())

        threading.Thread(target=run, daemon=True).start()
        ready.wait()

    def stop(self) -> None:
        self._stop()
        self._files.shutdown()
        self._files.server_close()

    def _file_handler(self) -> type[BaseHTTPRequestHandler]:
        volumes, blobs = self.volumes, self._blobs

        class Files(BaseHTTPRequestHandler):
            def log_message(self, *_arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                path, block = self.path.lstrip("/").rsplit("?", 1)
                start = int(block) * _BLOCK
                content = (volumes / path).read_bytes()[start : start + _BLOCK]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_PUT(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                blobs[self.path.removeprefix("/blob/")] = content
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
                self.send_header("Content-Length", "0")
                self.end_headers()

        return Files

    # -- the protocol ----------------------------------------------------------------------------

    def __mapping__(self) -> dict[str, Handler]:
        base = api_grpc.ModalClientBase
        empty = {name: (lambda _self, _stream: None) for name in base.__abstractmethods__}
        known = type("Known", (base,), empty)().__mapping__()  # type: ignore[abstract]
        return {path: self._handler(path, handler) for path, handler in known.items()}

    def _handler(self, path: str, known: Handler) -> Handler:
        name = path.rsplit("/", 1)[1]

        async def handle(stream: Any) -> None:
            requests = [request async for request in stream]
            request = requests[0]
            self.requests.append((name, request))
            self._ids += 1
            reply = known.reply_type()
            for field in reply.DESCRIPTOR.fields:
                if field.type == field.TYPE_STRING and field.name.endswith("_id"):
                    prefix = _PREFIXES.get(field.name, field.name[:2])
                    setattr(reply, field.name, f"{prefix}-{self._ids}")
            answer = getattr(self, f"_on_{name}", None)
            replies = answer(request, reply) if answer is not None else None
            for message in [reply] if replies is None else replies:
                await stream.send_message(message)

        return Handler(handle, known.cardinality, known.request_type, known.reply_type)

    def _on_EnvironmentGetOrCreate(self, _request: Any, reply: Any) -> None:
        reply.metadata.settings.image_builder_version = "2025.06"

    def _on_ImageGetOrCreate(self, _request: Any, reply: Any) -> None:
        reply.result.status = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS

    def _on_BlobCreate(self, _request: Any, reply: Any) -> None:
        blob = f"bl-{self._ids}"
        reply.blob_ids.append(blob)
        reply.upload_urls.items.append(f"http://127.0.0.1:{self._files.server_port}/blob/{blob}")

    def _on_MountPutFile(self, request: Any, reply: Any) -> None:
        if request.WhichOneof("data_oneof") is not None:
            self._uploads[request.sha256_hex] = request.data
        reply.exists = request.sha256_hex in self._uploads

    def _on_MountBatchedCheckExistence(self, _request: Any, _reply: Any) -> None:
        pass  # an empty answer: nothing is missing

    def _on_AppGetByDeploymentName(self, request: Any, reply: Any) -> None:
        reply.app_id = f"ap-{request.name}"
        self._apps[reply.app_id] = request.name

    def _on_FunctionPrecreate(self, request: Any, reply: Any) -> None:
        reply.function_id = f"fu-{self._ids}"

    def _on_FunctionCreate(self, request: Any, reply: Any) -> None:
        reply.function_id = request.existing_function_id or f"fu-{self._ids}"
        function = request.function
        if request.function_data.ranked_functions:
            reply.function_data.CopyFrom(request.function_data)
            function = request.function_data.ranked_functions[0].function
        else:
            reply.function.CopyFrom(function)
            reply.function_data.function_name = function.function_name
            reply.function_data.ranked_functions.add(rank=0, function=function)
        name = request.function_data.function_name or function.function_name
        key = self._apps[request.app_id], name
        self.functions[key] = request
        self._data[key] = reply.function_data
        self._names[reply.function_id] = key
        self._describe(reply.handle_metadata, name)

    def _describe(self, metadata: Any, name: str) -> None:
        metadata.function_name = name
        metadata.function_type = api_pb2.Function.FUNCTION_TYPE_FUNCTION
        metadata.definition_id = f"de-{self._ids}"

    def _on_FunctionGet(self, request: Any, reply: Any) -> None:
        key = request.app_name, request.object_tag
        reply.function_id = next(found for found, name in self._names.items() if name == key)
        reply.function.CopyFrom(self._data[key])
        self._describe(reply.handle_metadata, key[1])

    def _on_FunctionBindParams(self, request: Any, reply: Any) -> None:
        reply.bound_function_id = f"fu-{self._ids}"
        self._names[reply.bound_function_id] = self._names[request.function_id]
        self._options[reply.bound_function_id] = request.function_options
        self._describe(reply.handle_metadata, self._names[request.function_id][1])

    def _on_FunctionMap(self, request: Any, reply: Any) -> None:
        call = f"fc-{self._ids}"
        reply.function_call_id = call
        key = self._names[request.function_id]
        options = self._options.get(request.function_id)
        gpu = options.resources.gpu_config.gpu_type if options is not None else ""
        timeout = options.timeout_secs if options is not None else 0
        number = len(self.calls)
        self.calls.append((*key, gpu, timeout))
        for item in request.pipelined_inputs:
            reply.pipelined_inputs.add(input_id=f"in-{self._ids}", input_jwt="jwt")
            arguments = item.input.args or self._blobs[item.input.args_blob_id]
            target = self._run if number not in self.fate else self._end
            threading.Thread(
                target=target, args=(call, key, arguments, number), daemon=True
            ).start()

    def _end(self, call: str, _key: Any, _arguments: bytes, number: int) -> None:
        self._results[call] = api_pb2.GenericResult(
            status=self.fate[number], exception="taken away"
        )

    def _run(self, call: str, key: tuple[str, str], arguments: bytes, _number: int) -> None:
        request = self.functions[key]
        function = request.function
        if request.function_data.ranked_functions:
            function = request.function_data.ranked_functions[0].function
        serialized = function.function_serialized or request.function_data.function_serialized
        status = api_pb2.GenericResult
        try:
            body = deserialize(serialized, None)
            positional, named = deserialize(arguments, None)
            if key[1] == "study":
                value = body(*positional, **named)
            else:
                with self._torch:  # containers do not share a process; threads do
                    value = body(*positional, **named)
            self._results[call] = status(
                status=status.GENERIC_STATUS_SUCCESS, data=serialize(value)
            )
        except BaseException as error:
            self._results[call] = status(
                status=status.GENERIC_STATUS_FAILURE, exception=repr(error), data=serialize(error)
            )

    def _on_FunctionGetOutputs(self, request: Any, reply: Any) -> None:
        result = self._results.get(request.function_call_id)
        if result is None:
            reply.num_unfinished_inputs = 1
            return
        reply.outputs.add(
            result=result, data_format=api_pb2.DATA_FORMAT_PICKLE, input_id="in", idx=0
        )

    def _on_FunctionCallCancel(self, request: Any, _reply: Any) -> None:
        self._results.setdefault(
            request.function_call_id,
            api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_TERMINATED),
        )

    def _on_QueueGetOrCreate(self, request: Any, reply: Any) -> None:
        reply.queue_id = f"qu-{request.deployment_name}"

    def _on_QueuePut(self, request: Any, _reply: Any) -> None:
        held = self._queues.setdefault((request.queue_id, request.partition_key), [])
        held += list(request.values)

    def _on_QueueGet(self, request: Any, reply: Any) -> None:
        held = self._queues.get((request.queue_id, request.partition_key), [])
        reply.values.extend(held[: request.n_values])
        del held[: request.n_values]

    def _on_VolumeGetOrCreate(self, request: Any, reply: Any) -> None:
        reply.volume_id = f"vo-{request.deployment_name}"
        reply.version = api_pb2.VOLUME_FS_VERSION_V1
        reply.metadata.version = api_pb2.VOLUME_FS_VERSION_V1
        self._volume_names[reply.volume_id] = request.deployment_name
        (self.volumes / request.deployment_name).mkdir(parents=True, exist_ok=True)

    def _on_VolumeListFiles(self, request: Any, reply: Any) -> None:
        root = self.volumes / self._volume_names[request.volume_id]
        for path in sorted((root / request.path.strip("/")).rglob("*")):
            if path.name.endswith(".part"):  # being written
                continue
            kind = api_pb2.FileEntry.FILE if path.is_file() else api_pb2.FileEntry.DIRECTORY
            facts = path.stat()
            reply.entries.add(
                path=path.relative_to(root).as_posix(),
                type=kind,
                size=facts.st_size,
                mtime=int(facts.st_mtime),
            )

    def _on_VolumeGetFile2(self, request: Any, reply: Any) -> None:
        name = self._volume_names[request.volume_id]
        path = f"{name}/{request.path.strip('/')}"
        reply.size = reply.len = (self.volumes / path).stat().st_size
        blocks = -(-reply.len // _BLOCK)
        port = self._files.server_port
        reply.get_urls.extend(f"http://127.0.0.1:{port}/{path}?{i}" for i in range(blocks))

    def _on_VolumePutFiles(self, request: Any, _reply: Any) -> None:
        root = self.volumes / self._volume_names[request.volume_id]
        for file in request.files:
            target = root / file.filename.strip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._uploads[file.sha256_hex])

    def _on_WorkspaceBillingReport(self, request: Any, _reply: Any) -> list[Any]:
        """Two apps of the plan `small`, and one of somebody else's, in the first full hour."""
        assert request.resolution == "h"
        found = []
        for plan, cost in (("small", "0.25"), ("small", "0.5"), ("other", "7")):
            item = api_pb2.WorkspaceBillingReportItem(cost=cost, tags={"steersweep-plan": plan})
            item.interval.CopyFrom(request.start_timestamp)
            found.append(item)
        return found
