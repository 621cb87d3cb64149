"""Every requirement that the incidents of this class of software made us write down, and what shows that it is kept.

A requirement has tests (``file::name`` below tests/), or the reason why it does not apply here. docs/security.md has
the same as a table for people; test_requirements.py compares both.
"""

from typing import NamedTuple


class Requirement(NamedTuple):
    """One requirement."""

    text: str
    tests: tuple[str, ...] = ()
    reason: str = ""  # why there is no test, what the tests leave out, or where what they send is


REQUIREMENTS: dict[str, Requirement] = {
    "R1": Requirement(
        "No bind off loopback without TLS and credentials",
        ("rpc/test_several_hosts.py::test_a_caller_without_tls_is_not_heard",
         "rpc/test_several_hosts.py::test_without_a_good_key_nothing_opens"),
    ),
    "R2": Requirement(
        "Only the listeners that are meant; agents listen on nothing",
        ("security/test_listeners.py::test_nothing_listens_but_what_is_meant_to",),
    ),
    "R3": Requirement(
        "Deny by default: one table of policy for routes and RPCs, and a matrix generated from it",
        ("access/test_matrix.py::test_without_a_credential_nothing_is_answered",
         "access/test_matrix.py::test_a_method_of_which_nobody_said_who_may_call_it_stops_the_start",
         "gateway/test_authorisation.py::test_a_route_without_a_rule_and_a_rule_without_a_route_stop_the_start",
         "gateway/test_authorisation.py::test_without_a_good_key_every_route_is_401_and_nothing_changes"),
    ),
    "R4": Requirement(
        "Commands are bound to epoch, session, assignment and sequence; a repeated frame does nothing",
        ("worker/test_journal.py::test_a_group_with_an_old_sequence_is_refused_whole",
         "decisions/test_reports.py::test_a_repeated_end_is_acknowledged_and_changes_nothing",
         "decisions/test_reports.py::test_a_report_of_an_older_attempt_changes_nothing",
         "decisions/test_reports.py::test_a_stream_that_was_superseded_is_not_heard",
         "rpc/test_replays.py::test_a_workers_frames_do_nothing_in_another_session",
         "rpc/test_replays.py::test_a_workers_frames_do_nothing_from_another_worker",
         "rpc/test_replays.py::test_the_hello_of_an_earlier_start_is_not_taken",
         "rpc/test_replays.py::test_a_clients_calls_do_nothing_a_second_time",
         "rpc/test_replays.py::test_an_invitation_and_a_certificate_request_are_good_once"),
    ),
    "R5": Requirement(
        "A worker is what its certificate says; a client certificate is no server's",
        ("rpc/test_several_hosts.py::test_nobody_speaks_for_another_worker",
         "rpc/test_several_hosts.py::test_a_worker_certificate_is_not_taken_for_a_coordinators",
         "access/test_joining.py::test_nobody_calls_itself_what_it_is_not"),
    ),
    "R6": Requirement(
        "Expiry and revocation count on every call and on open streams",
        ("access/test_open_streams.py::test_a_revoked_key_ends_every_open_stream_of_its_own",
         "access/test_open_streams.py::test_an_expired_key_ends_its_streams",
         "rpc/test_several_hosts.py::test_a_revoked_worker_is_cut_off_at_once_and_not_heard_again",
         "gateway/test_authorisation.py::test_an_open_stream_ends_when_its_key_is_revoked"),
    ),
    "R7": Requirement(
        "Nobody unknown may change anything; no setting allows everything",
        ("access/test_policy.py::test_nobody_may_anything_and_sees_nothing",
         "access/test_policy.py::test_only_joining_is_open_to_anybody"),
    ),
    "R8": Requirement(
        "The worker has the last word, compared exactly and never by prefix",
        ("worker/test_local_policy.py::test_every_rule_takes_exact_names_and_no_prefix",
         "worker/test_local_policy.py::test_what_a_coordinator_sends_against_the_policy_never_runs_and_is_reported"),
    ),
    "R9": Requirement(
        "Secrets are sealed values and are taken out of logs; canaries are found nowhere",
        ("security/test_canaries.py::test_no_canary_is_anywhere_but_where_it_was_put",
         "security/test_redaction.py::test_a_sealed_value_shows_itself_only_to_who_asks",
         "security/test_redaction.py::test_no_line_of_a_process_shows_what_was_registered",
         "access/test_keys.py::test_a_secret_is_in_no_repr"),
    ),
    "R10": Requirement(
        "What a worker says is data, and counts for its own attempts only",
        ("decisions/test_reports.py::test_a_report_of_an_attempt_of_another_worker_changes_nothing",
         "decisions/test_reports.py::test_ids_in_reports_are_never_trusted_to_exist",
         "rpc/test_bad_input.py::test_random_bytes_never_make_a_fault_of_ours",
         "rpc/test_several_hosts.py::test_a_certificate_opens_what_workers_need_and_nothing_else"),
    ),
    "R11": Requirement(
        "No pickle, marshal, eval or import by a name from outside",
        ("security/test_code.py::test_nothing_is_made_of_bytes_but_by_parsers_of_plain_values",),
    ),
    "R12": Requirement(
        "Privileges are dropped in the right order and the result is looked at",
        ("security/test_dropping.py::test_a_job_of_another_user_has_nothing_of_root",),
    ),
    "R13": Requirement(
        "SQL has bound parameters only",
        ("security/test_code.py::test_no_statement_is_put_together_from_values",),
    ),
    "R14": Requirement(
        "Who runs a job is checked against the worker's own list; nobody gives what he has not",
        ("access/test_key_decisions.py::test_nobody_gives_a_scope_that_he_does_not_have",
         "worker/test_local_policy.py::test_only_root_can_run_jobs_as_somebody_else"),
    ),
    "R15": Requirement(
        "A Host header names this host, or the answer is 421",
        ("gateway/test_browser.py::test_a_name_that_was_made_to_point_here_reaches_nothing",
         "gateway/test_edge.py::test_a_host_header_that_names_another_host_is_421_on_every_route",),
    ),
    "R16": Requirement(
        "Pages of other sites are refused, on every route and method",
        ("gateway/test_browser.py::test_nothing_that_a_foreign_page_sends_is_taken",
         "gateway/test_edge.py::test_a_page_of_another_site_is_403_on_every_route_and_changes_nothing",),
    ),
    "R17": Requirement("GET and HEAD change nothing", ("gateway/test_edge.py::test_a_get_changes_nothing",)),
    "R18": Requirement(
        "What users wrote is shown as text; files are attachments",
        ("gateway/test_native_files.py::test_a_file_with_a_strange_name_is_served_under_exactly_that_name",
         "gateway/test_edge.py::test_every_answer_says_that_it_is_not_to_be_kept_or_guessed_at"),
        "There is no dashboard yet; its pages bring their own tests.",
    ),
    "R19": Requirement(
        "No redirect to a place that a caller names",
        ("security/test_code.py::test_no_answer_sends_a_caller_elsewhere",),
    ),
    "R20": Requirement(
        "Secrets are made at the first start and never shipped",
        ("security/test_code.py::test_two_installations_share_no_secret",),
    ),
    "R21": Requirement(
        "WebSocket and SSE check the origin as every route does; no key in an address",
        ("gateway/test_edge.py::test_a_page_of_another_site_is_403_on_every_route_and_changes_nothing",),
        "There is no WebSocket; streams of events are routes like the others.",
    ),
    "R22": Requirement(
        "aiohttp is new enough, with its compiled parser",
        ("security/test_advisories.py::test_what_is_installed_has_no_known_advisory",
         "gateway/test_edge.py::test_what_is_no_http_is_400_in_json_without_an_echo_or_a_traceback",
         "security/test_bad_http.py::test_bad_requests_are_refused_in_their_familys_form_and_the_gateway_goes_on"),
        "Wrong framing is in `security/framing_corpus.py`.",
    ),
    "R23": Requirement(
        "Slow clients and half-open connections have deadlines",
        ("gateway/test_edge.py::test_a_head_that_does_not_end_closes_the_connection",
         "gateway/test_edge.py::test_half_open_connections_do_not_slow_others",
         "gateway/test_edge.py::test_too_many_connections_are_closed_at_once_when_all_serve",
         "gateway/test_edge.py::test_who_holds_connections_and_asks_for_nothing_shuts_nobody_out"),
    ),
    "R24": Requirement(
        "Compressed bodies are refused",
        ("gateway/test_edge.py::test_a_compressed_body_is_refused_unread",
         "gateway/test_native_files.py::test_a_compressed_upload_is_415"),
    ),
    "R25": Requirement(
        "Multipart is read in pieces with caps",
        ("gateway/test_multipart.py::test_a_large_part_comes_in_pieces_of_a_bounded_size",
         "gateway/test_multipart.py::test_a_content_over_its_limit_is_too_large"),
    ),
    "R26": Requirement(
        "JSON has caps on size, depth, keys and numbers",
        ("gateway/test_bodies.py::test_objects_keys_and_texts_have_their_limits",
         "gateway/test_bodies.py::test_numbers_that_nobody_can_hold_are_refused",
         "security/test_bad_http.py::test_bad_requests_are_refused_in_their_familys_form_and_the_gateway_goes_on"),
        "Wrong JSON is in `security/http_corpus.py`, and by the OpenAPI document in `security/schema_corpus.py`.",
    ),
    "R27": Requirement(
        "gRPC has caps on messages and metadata",
        ("rpc/test_bad_input.py::test_a_message_that_is_too_long_is_refused",
         "security/test_advisories.py::test_what_is_installed_has_no_known_advisory"),
        "Clients that open and reset streams without end are left to grpcio's own guards.",
    ),
    "R28": Requirement(
        "Messages are parsed in the handler: undecodable ones cost nothing",
        ("rpc/test_bad_input.py::test_bytes_that_are_no_message_are_an_invalid_argument",
         "security/test_bad_protobuf.py::test_bad_messages_end_with_a_documented_status_and_the_coordinator_goes_on"),
        "The messages are made in `security/protobuf_corpus.py`.",
    ),
    "R29": Requirement(
        "Every queue has a bound and says no above it",
        ("engine/test_engine.py::test_the_inbox_is_bounded",
         "gateway/test_batching.py::test_above_the_bound_a_submission_is_refused_and_nothing_of_it_is_kept",
         "access/test_audit.py::test_what_waits_in_memory_is_bounded"),
    ),
    "R30": Requirement(
        "Paths from outside open nothing outside",
        ("security/test_paths.py::test_a_worker_opens_one_name_after_the_other_below_the_outputs",
         "security/test_paths.py::test_a_gateway_and_a_coordinator_open_nothing_outside",
         "worker/test_workspace_files.py::test_no_path_leads_out_of_the_output_directory",
         "worker/test_workspace_files.py::test_links_are_followed_nowhere",
         "gateway/test_pixyz_files.py::test_a_path_that_tries_to_leave_the_outputs_is_400",
         "security/test_bad_http.py::test_bad_requests_are_refused_in_their_familys_form_and_the_gateway_goes_on"),
        "The paths are in `security/http_corpus.py`.",
    ),
    "R31": Requirement(
        "Archives are made and never taken apart; a client writes only below its directory",
        ("cli/test_output_commands.py::test_no_server_can_write_outside_the_directory",
         "security/test_code.py::test_no_archive_is_taken_apart"),
    ),
    "R32": Requirement(
        "What we write lies where a job cannot; trees are removed without following links",
        ("worker/test_workspace_files.py::test_a_file_is_opened_only_as_what_it_was_found_to_be",
         "worker/test_workspace_files.py::test_what_a_program_mounted_is_not_emptied"),
    ),
    "R33": Requirement(
        "Files that are kept lose what they were allowed",
        ("files/test_archive.py::test_the_same_files_give_the_same_bytes_with_their_times",),
        "Stored files have no modes at all: they are bytes under their digest.",
    ),
    "R34": Requirement(
        "Nothing of a data directory can be read by others; secrets that others can read are refused",
        ("security/test_canaries.py::test_nothing_of_a_data_directory_can_be_read_by_others",
         "rpc/test_several_hosts.py::test_a_secret_file_that_others_can_read_is_refused",
         "worker/test_local_policy.py::test_a_policy_that_others_can_write_is_refused"),
    ),
    "R35": Requirement(
        "Control characters of others are escaped in logs and on terminals",
        ("access/test_audit.py::test_lines_are_one_line_each_whatever_is_in_a_name",
         "security/test_code.py::test_a_terminal_gets_no_control_characters"),
    ),
    "R36": Requirement(
        "No request is made on behalf of a caller",
        ("security/test_code.py::test_only_clients_and_workers_call_out",),
        "A worker calls a service at an address that an operator's workload names, as its policy allows.",
    ),
    "R37": Requirement(
        "Output, files and disks have bounds and reserves",
        ("worker/test_attempts.py::test_a_cap_keeps_the_first_bytes_and_says_how_many_it_dropped",
         "worker/test_shim.py::test_a_full_disk_costs_output_but_not_the_exit_frame",
         "files/test_blobs.py::test_what_does_not_fit_is_refused_before_its_first_byte"),
    ),
    "R38": Requirement(
        "Secrets are in no command line",
        ("security/test_canaries.py::test_no_canary_is_anywhere_but_where_it_was_put",
         "worker/test_container_policy.py::test_variables_of_a_job_never_reach_podman_itself"),
    ),
    "R39": Requirement(
        "A program that leaves its process group is ended all the same",
        ("zoo/test_zoo.py::test_nothing_of_a_nasty_program_is_left_after_its_stop",),
    ),
    "R40": Requirement(
        "Signals go through pidfds",
        ("worker/test_process_tree.py::test_a_pid_is_signalled_only_while_it_is_a_member",),
    ),
    "R41": Requirement(
        "The number of processes can be bounded",
        ("worker/test_limits.py::test_more_processes_than_allowed_cannot_be_made",),
    ),
    "R42": Requirement(
        "A program that forks and exits for ever is caught",
        ("cluster/test_stopping.py::test_a_comet_is_caught",),
    ),
    "R43": Requirement(
        "Adopted orphans are reaped",
        ("worker/test_attempts.py::test_thousands_of_orphans_leave_no_zombie",),
    ),
    "R44": Requirement(
        "Pipes are read by the shim: jobs outlive the agent",
        ("worker/test_shim.py::test_an_attempt_goes_on_without_its_agent",),
    ),
    "R45": Requirement(
        "An end is the end of the main process, never an end of file",
        ("worker/test_process_tree.py::test_a_foreign_holder_of_the_pipe_blocks_nothing",),
    ),
    "R46": Requirement(
        "A stopped process hears SIGTERM",
        ("worker/test_process_tree.py::test_a_stopped_process_is_ended",),
    ),
    "R47": Requirement(
        "Programs are started from the main thread of the shim, which has no other",
        ("security/test_code.py::test_what_starts_programs_has_one_thread",),
    ),
    "R48": Requirement(
        "Programs of another user are started by hand, in the order that works",
        ("security/test_dropping.py::test_a_job_of_another_user_has_nothing_of_root",),
    ),
    "R49": Requirement(
        "Jobs run as root only when that was said",
        ("worker/test_local_policy.py::test_a_worker_of_root_runs_jobs_as_root_only_when_that_was_said",
         "worker/test_local_policy.py::test_a_worker_of_root_without_a_word_about_it_does_not_start"),
    ),
    "R29b": Requirement(
        "Rates by key and by address, in a bounded table",
        ("security/test_rates.py::test_one_caller_empties_no_bucket_but_its_own",
         "security/test_rates.py::test_a_million_addresses_cost_no_more_than_the_table_holds"),
    ),
    "R50": Requirement(
        "Every guard of the protocol has a mutant that the simulation notices",
        ("simulation/test_mutants.py::test_every_guard_has_a_mutant",
         "simulation/test_mutants.py::test_every_guard_is_noticed_or_explained"),
    ),
}  # fmt: skip
