"""Which RPC goes where, and the parts that answer them."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import grpc

from coordinator.rpc.access_service import AccessService
from coordinator.rpc.audit_service import AuditService
from coordinator.rpc.cluster_service import ClusterService
from coordinator.rpc.explain_service import ExplainService
from coordinator.rpc.feed_service import FeedService
from coordinator.rpc.files_service import FilesService
from coordinator.rpc.guard import Guard
from coordinator.rpc.jobs_service import JobsService
from coordinator.rpc.joining_service import JoiningService
from coordinator.rpc.log_service import LogService
from coordinator.rpc.outputs_service import OutputsService
from coordinator.rpc.records_service import RecordsService
from coordinator.rpc.retry_service import RetryService
from coordinator.rpc.workers_service import WorkersService
from coordinator.rpc.workloads_service import WorkloadsService
from hostler.v1 import access_pb2, files_pb2, jobs_pb2, workloads_pb2

SERVICES = ("Jobs", "Records", "Cluster", "Files", "Workloads", "Access", "Workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What answers the RPCs."""

    jobs: JobsService
    explain: ExplainService
    retries: RetryService
    log: LogService
    feed: FeedService
    outputs: OutputsService
    files: FilesService
    workloads: WorkloadsService
    records: RecordsService
    cluster: ClusterService
    access: AccessService
    audit: AuditService
    workers: WorkersService
    joining: JoiningService


def wrapped(services: Services, guard: Guard) -> "dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]":
    """Every handler behind the guard, by service and method.

    Raises:
        NoPolicy: of one nobody has said who may call it.
    """
    s = services
    one_answer = (
        ("Jobs/Get", jobs_pb2.GetRequest, s.jobs.get),
        ("Jobs/Explain", jobs_pb2.GetRequest, s.explain.explain),
        ("Jobs/List", jobs_pb2.ListRequest, s.jobs.list),
        ("Jobs/Stop", jobs_pb2.StopRequest, s.jobs.stop),
        ("Jobs/Retry", jobs_pb2.RetryRequest, s.retries.retry),
        ("Jobs/Signal", jobs_pb2.SignalRequest, s.jobs.signal),
        ("Jobs/ListOutputs", jobs_pb2.ListOutputsRequest, s.outputs.list_outputs),
        ("Records/Put", jobs_pb2.PutRecordRequest, s.records.put),
        ("Records/Find", jobs_pb2.FindRecordsRequest, s.records.find),
        ("Workloads/Apply", workloads_pb2.ApplyRequest, s.workloads.apply),
        ("Workloads/Get", workloads_pb2.GetWorkloadRequest, s.workloads.get),
        ("Workloads/List", workloads_pb2.ListWorkloadsRequest, s.workloads.list),
        ("Workloads/Remove", workloads_pb2.RemoveWorkloadRequest, s.workloads.remove),
        ("Cluster/ListWorkers", jobs_pb2.ListWorkersRequest, s.cluster.list_workers),
        ("Cluster/DrainWorker", jobs_pb2.DrainWorkerRequest, s.cluster.drain_worker),
        ("Cluster/ResumeWorker", jobs_pb2.WorkerRequest, s.cluster.resume_worker),
        ("Cluster/ReleaseWorker", jobs_pb2.WorkerRequest, s.cluster.release_worker),
        ("Cluster/Describe", jobs_pb2.DescribeRequest, s.cluster.describe),
        ("Cluster/Metrics", jobs_pb2.MetricsRequest, s.cluster.metrics),
        ("Access/CreateKey", access_pb2.CreateKeyRequest, s.access.create_key),
        ("Access/ListKeys", access_pb2.ListKeysRequest, s.access.list_keys),
        ("Access/RevokeKey", access_pb2.RevokeKeyRequest, s.access.revoke_key),
        ("Access/Authenticate", access_pb2.AuthenticateRequest, s.access.authenticate),
        ("Access/NoteRefusals", access_pb2.NoteRefusalsRequest, s.audit.note_refusals),
    )
    many_answers = (
        ("Jobs/Wait", jobs_pb2.WaitRequest, s.jobs.wait),
        ("Jobs/Watch", jobs_pb2.WatchRequest, s.jobs.watch),
        ("Jobs/ReadLog", jobs_pb2.ReadLogRequest, s.log.read_log),
        ("Jobs/ReadOutput", jobs_pb2.ReadOutputRequest, s.outputs.read_output),
        ("Jobs/ReadArchive", jobs_pb2.ReadArchiveRequest, s.outputs.read_archive),
        ("Files/Read", files_pb2.ReadFileRequest, s.files.read),
        ("Access/ReadAudit", access_pb2.ReadAuditRequest, s.audit.read_audit),
    )
    by_name: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        **{name: guard.unary(name, kind, handler) for name, kind, handler in one_answer},  # type: ignore[arg-type]
        **{name: guard.streaming(name, kind, handler) for name, kind, handler in many_answers},  # type: ignore[arg-type]
        "Jobs/Submit": guard.by_caller("Jobs/Submit", jobs_pb2.SubmitRequest, s.jobs.submit),
        "Jobs/Feed": guard.duplex("Jobs/Feed", jobs_pb2.FeedRequest, s.feed.feed),
        # It takes a stream and answers once: to the caller a stream of one answer is the same.
        "Files/Put": guard.duplex("Files/Put", files_pb2.PutRequest, s.files.put),
        "Workers/Connect": guard.for_workers("Workers/Connect", s.workers.connect),
        "Workers/PushLog": guard.for_workers("Workers/PushLog", s.workers.push_log),
        "Workers/SendOutput": guard.for_workers("Workers/SendOutput", s.outputs.send_output),
    }
    by_name |= _of_joining(s.joining, guard)
    nested: defaultdict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = defaultdict(dict)
    for name, handler in by_name.items():
        service, method = name.split("/")
        nested[f"hostler.v1.{service}"][method] = handler
    return nested


def _of_joining(joining: JoiningService, guard: Guard) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
    return {
        "Access/Invite": guard.unary("Access/Invite", access_pb2.InviteRequest, joining.invite),
        "Access/RevokeWorker": guard.unary(
            "Access/RevokeWorker", access_pb2.RevokeWorkerRequest, joining.revoke_worker
        ),
        "Access/Join": guard.for_anybody("Access/Join", access_pb2.JoinRequest, joining.join),
        "Access/Renew": guard.by_caller("Access/Renew", access_pb2.RenewRequest, joining.renew),
    }
