internal import Glibc
package import MWACME
internal import Synchronization

/// The right to order and to work on accounts, among all processes that use a state directory.
///
/// A kernel lock (flock): it ends with the process, however that ends, and no file is left that somebody has to remove.
package final class StateLock: Sendable {
    private let descriptor: Mutex<Int32?>

    private init(_ descriptor: Int32) { self.descriptor = Mutex(descriptor) }

    deinit { release() }

    /// Nil while another holds it.
    package static func take(in directory: StateDirectory) throws(ACMEError) -> StateLock? {
        let path = directory.path + "/lock"
        let descriptor = unsafe open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, mode_t(0o600))
        guard descriptor >= 0 else { throw StateTrouble.error(path, "it cannot be opened", errno) }
        // Whatever the umask.
        _ = fchmod(descriptor, mode_t(0o600))
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let reason = errno
            close(descriptor)
            if reason == EWOULDBLOCK || reason == EINTR { return nil }
            throw StateTrouble.error(path, "it cannot be locked", reason)
        }
        return StateLock(descriptor)
    }

    /// Lets others. Again is as once.
    package func release() {
        descriptor.withLock { descriptor in
            guard let open = descriptor else { return }
            // By hand: a child that was forked at this moment, and has not reached its exec, still shares the lock.
            _ = flock(open, LOCK_UN)
            close(open)
            descriptor = nil
        }
    }
}
