"""The names of PyMySQL that `greentor.drivers` relies on; a test looks for them in the installed version."""

#: of an open connection
CONNECTION = frozenset(
    {
        "_auth_plugin_map",
        "_closed",
        "_create_ssl_ctx",
        "_execute_command",
        "_force_close",
        "_get_server_information",
        "_local_infile",
        "_next_seq_id",
        "_read_bytes",
        "_read_ok_packet",
        "_read_packet",
        "_read_query_result",
        "_read_timeout",
        "_request_authentication",
        "_result",
        "_secure",
        "_sock",
        "_write_bytes",
        "_write_timeout",
        "bind_address",
        "connect_timeout",
        "cursorclass",
        "decoders",
        "encoding",
        "host",
        "host_info",
        "max_allowed_packet",
        "port",
        "server_status",
        "show_warnings",
        "thread_id",
        "unix_socket",
        "use_unicode",
        "user",
        "write_packet",
    }
)

#: of a result
RESULT = frozenset(
    {
        "_check_packet_is_eof",
        "_finish_unbuffered_query",
        "_get_descriptions",
        "_read_load_local_packet",
        "_read_ok_packet",
        "_read_row_from_packet",
        "_read_rowdata_packet",
        "_read_rowdata_packet_unbuffered",
        "affected_rows",
        "connection",
        "description",
        "field_count",
        "has_next",
        "init_unbuffered_query",
        "insert_id",
        "message",
        "read",
        "rows",
        "server_status",
        "unbuffered_active",
        "warning_count",
    }
)

#: of a cursor
CURSOR = frozenset(
    {"_clear_result", "_do_get_result", "_executed", "_query", "_result", "connection"}
)
