import CLinux
import Glibc
import Logging

/// What a server process gives up before it reads its first secret.
enum ProcessHardening {
    /// Beside the connections: the engine's tables, listeners, log.
    static let otherDescriptors: rlim_t = 1_100

    /// No memory image of the keys on any disk, nobody of the same user who attaches to it, and files for their owner only. What the system
    /// refuses is logged: everything else still holds.
    static func apply(_ logger: Logger) {
        umask(0o077)
        var noCore = rlimit(rlim_cur: 0, rlim_max: 0)
        if unsafe setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &noCore) != 0 { warn(logger, "core dumps stay possible", errno) }
        // Also without a limit a core may be piped to a program (core(5)): that one is kept from it too.
        let dumpable = mws_set_undumpable()
        if dumpable != 0 { warn(logger, "the process stays open to debuggers of its user", dumpable) }
        if mws_has_no_new_privileges() != 1 { warn(logger, "children may gain privileges", ENOTSUP) }
    }

    /// A property of a thread, which its threads and children inherit: call it before there is a second one.
    static func refuseNewPrivileges() { _ = mws_set_no_new_privileges() }

    /// Each connection is a descriptor: the soft limit, often 1,024, becomes the hard one.
    static func raiseDescriptorLimit(_ logger: Logger, for connections: Int) {
        var limit = rlimit()
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        guard unsafe getrlimit(resource, &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        _ = unsafe setrlimit(resource, &limit)
        _ = unsafe getrlimit(resource, &limit)
        let needed = rlim_t(clamping: connections).addingReportingOverflow(otherDescriptors).partialValue
        if limit.rlim_cur < needed {
            logger.warning(
                "fewer file descriptors than connections allowed: accepting will pause when they run out",
                metadata: ["descriptors": "\(limit.rlim_cur)", "needed": "\(needed)", "remedy": "raise the hard limit (ulimit -Hn)"])
        }
    }

    private static func warn(_ logger: Logger, _ what: Logger.Message, _ code: Int32) {
        logger.warning(what, metadata: ["reason": "\(unsafe String(cString: strerror(code)).lowercased())"])
    }
}
