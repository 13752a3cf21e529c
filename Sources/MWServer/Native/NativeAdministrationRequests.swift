internal import MWPKI
package import MWProtocol
internal import NIOCore

/// What a server does for those who may administer it. Called on any thread; what it throws is told to the administrator.
package protocol AdministrationService: AnyObject, Sendable {
    func perform(_ request: NativeStatusRequest, by administrator: Principal) async throws -> NativeStatus
    func perform(_ request: NativeSessionsRequest, by administrator: Principal) async throws -> NativeSessions
    func perform(_ request: NativeRejectionsRequest, by administrator: Principal) async throws -> NativeRejections
    func perform(_ request: NativeAuthoritiesRequest, by administrator: Principal) async throws -> NativeAuthorities
    func perform(_ request: NativeRefusalsRequest, by administrator: Principal) async throws -> NativeRefusals
    func perform(_ request: NativeReloadRequest, by administrator: Principal) async throws -> NativeReloadState
    func perform(_ request: NativeRefuseRequest, by administrator: Principal) async throws -> NativeRefusalChange
    func perform(_ request: NativeAcceptAgainRequest, by administrator: Principal) async throws -> NativeRefusalChange
    /// - Parameter asking: The connection that asks, which is not told to reload.
    func perform(
        _ request: NativeReloadClientsRequest, by administrator: Principal, on asking: UInt64
    ) async throws -> NativeReloadClients
    func perform(_ request: NativeBackupRequest, by administrator: Principal) async throws -> NativeBackup
    func perform(_ request: NativeCompactRequest, by administrator: Principal) async throws -> NativeCompacted
}

extension AdministrationService {
    package func perform(_ request: NativeBackupRequest, by administrator: Principal) async throws -> NativeBackup {
        throw NativeFailure(.notConfigured, "this server makes no backups")
    }

    package func perform(_ request: NativeCompactRequest, by administrator: Principal) async throws -> NativeCompacted {
        throw NativeFailure(.notConfigured, "this server has no history to compact")
    }
}

// What administrators ask: each request is judged, counted, done in a task, and answered on the event loop.

extension NativeSession {
    /// Requests of administrators that one connection may have under way: each may look at every connection of the server.
    static let maximumAdministrationsInFlight = 16
    /// When an administrator with too many may try again.
    private static let administrationRetryAfterMilliseconds: Int64 = 1_000

    /// Has a request done that changes something, which the audit log is told.
    func change<Request: NativeRequest>(
        _ type: Request.Type, _ subject: @escaping (Request) -> String?, _ frame: NativeFrame, in session: SessionHandler,
        _ body: @escaping @Sendable (any AdministrationService, Request, Principal) async throws -> Request.Reply
    ) {
        self.administer(type, frame, in: session, body) { request, failure in
            session.loop.audit.record(
                .administration(
                    session.info, AuditedAction(operation: "\(Request.kind)", subject: subject(request), failure: failure)))
        }
    }

    /// Has a request done that needs an administrator.
    ///
    /// - Parameter whenEnded: Gets the request and why it was not done.
    func administer<Request: NativeRequest>(
        _ type: Request.Type, _ frame: NativeFrame, in session: SessionHandler,
        _ body: @escaping @Sendable (any AdministrationService, Request, Principal) async throws -> Request.Reply,
        whenEnded: @escaping (Request, String?) -> Void = { _, _ in }
    ) {
        let request: Request
        let administration: any AdministrationService
        do throws(NativeFailure) {
            administration = try self.admit(Request.kind, in: session)
            do throws(ProtocolError) { request = try Request(frame.fields) } catch { throw NativeFailure(error) }
        } catch {
            return self.fail(error, frame, in: session)
        }
        let (principal, id) = (session.info.principal, frame.id)
        self.administrationsInFlight += 1
        session.requestStarted()
        // Only what is rare leaves the loop for a task.
        session.loop.eventLoop.makeFutureWithTask { try await body(administration, request, principal) }
            .assumeIsolated().whenComplete { result in
                self.administrationsInFlight -= 1
                switch result {
                case .success(let reply):
                    whenEnded(request, nil)
                    self.reply(reply, to: Request.kind, id, in: session)
                case .failure(let error):
                    whenEnded(request, "\(error)")
                    self.fail(NativeFailure(reporting: error), Request.kind, id, in: session)
                }
                session.requestEnded()
                self.takeRequests(in: session)
            }
    }

    /// Whether this client may administer, now.
    private func admit(_ kind: NativeRequestKind, in session: SessionHandler) throws(NativeFailure) -> any AdministrationService {
        let principal = session.info.principal
        guard principal.isAdministrator else {
            session.loop.counters.deniedRequests &+= 1
            session.loop.audit.record(
                .requestDenied(session.info, DeniedRequest(operation: "\(kind)", right: "administer")))
            throw .permissionDenied(principal, kind)
        }
        guard let administration = self.administration else { throw NativeFailure(.notConfigured, "this server has no administration") }
        guard session.loop.audit.allowsAdministration else {
            throw NativeFailure(
                .unavailable, "the audit log is required, and cannot be written", remedy: "mend what the server's log says of it",
                isRetryable: true)
        }
        guard self.administrationsInFlight < Self.maximumAdministrationsInFlight else {
            throw NativeFailure(
                .overloaded, "\(self.administrationsInFlight) administrative requests of this connection are under way",
                isRetryable: true, retryAfterMilliseconds: Self.administrationRetryAfterMilliseconds)
        }
        return administration
    }
}
