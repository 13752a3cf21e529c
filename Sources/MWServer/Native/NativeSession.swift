internal import Logging
internal import MWPKI
package import MWProtocol
package import MWWebSocket
package import NIOCore

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
}

/// The native protocol of one connection. Its frames are drawn in MWProtocol, in NativeFrame.swift.
///
///     message ─▶ frame ─▶ by kind ─▶ may it? ─▶ read ─┬─▶ answered at once
///                  ▲                  └─ failure      └─▶ on its way; its future brings the answer back to the loop
///                  └── the next, as far as the network and the limits go
///
/// What cannot be found its end closes the connection; every request that has an end has an answer.
package final class NativeSession: SessionDelegate {
    /// Requests of administrators that one connection may have under way: each may look at every connection of the server.
    static let maximumAdministrationsInFlight = 16
    /// When an administrator with too many may try again.
    private static let retryAfterMilliseconds: Int64 = 1_000

    private let administration: (any AdministrationService)?
    /// What of the last message is still to be taken.
    private var rest: ByteBuffer?
    private var isTaking = false
    private var administrationsInFlight = 0
    /// A client that fails all the time must not fill a disk with logs.
    private var lines = EventBudget(burst: 1, perSecond: 1)

    /// - Parameter administration: Without one, every request of an administrator is answered as not set up.
    package init(administration: (any AdministrationService)?) { self.administration = administration }

    // MARK: Messages

    package func messageReceived(_ opcode: MessageOpcode, _ payload: ByteBuffer, in session: SessionHandler) {
        guard opcode == .binary else {
            return session.close(
                .unsupportedMessage, CloseCode.unsupportedData.rawValue, "\(nativeSubprotocol) has binary messages only")
        }
        self.rest = payload
        self.takeRequests(in: session)
    }

    package func readBurstEnded(in session: SessionHandler) { self.takeRequests(in: session) }

    package func mayGoOn(in session: SessionHandler) { self.takeRequests(in: session) }

    package func sessionEnded(_ session: SessionHandler) { self.rest = nil }

    private func takeRequests(in session: SessionHandler) {
        // A flush may bring us here again.
        guard !self.isTaking, self.rest != nil else { return }
        self.isTaking = true
        while session.mayTakeNext, self.takeRequest(in: session) {}
        self.isTaking = false
        if self.rest == nil { session.release(.unfinishedMessage) } else { session.hold(.unfinishedMessage) }
    }

    /// - Returns: false when there is none.
    private func takeRequest(in session: SessionHandler) -> Bool {
        guard var message = self.rest else { return false }
        // Nobody else may hold the message while its slices are made.
        self.rest = nil
        do throws(ProtocolError) {
            guard let frame = try NativeFrame(readingFrom: &message) else { return false }
            guard frame.role == .request else {
                throw ProtocolError(.unknownType, "frame", expected: "a request", found: "a \(frame.role)")
            }
            self.rest = message.readableBytes > 0 ? message : nil
            session.countRequest()
            self.handle(frame, in: session)
            return true
        } catch {
            self.log("\(error)", in: session)
            session.close(.protocolViolation, error.closeCode, error.closeReason)
            return false
        }
    }

    // MARK: Requests

    private func handle(_ frame: NativeFrame, in session: SessionHandler) {
        switch NativeRequestKind(rawValue: frame.kind) {
        case .hello: self.answer(NativeHello.self, frame, in: session) { self.welcome($0, session) }
        case .ping: self.answer(NativePing.self, frame, in: session) { Self.pong($0) }
        case .whoami: self.answer(NativeWhoAmI.self, frame, in: session) { _ in NativeIdentity(of: session, at: .now()) }
        case .status: self.administer(NativeStatusRequest.self, frame, in: session) { try await $0.perform($1, by: $2) }
        case .sessions: self.administer(NativeSessionsRequest.self, frame, in: session) { try await $0.perform($1, by: $2) }
        case .rejections: self.administer(NativeRejectionsRequest.self, frame, in: session) { try await $0.perform($1, by: $2) }
        case .authorities: self.administer(NativeAuthoritiesRequest.self, frame, in: session) { try await $0.perform($1, by: $2) }
        case .refusals: self.administer(NativeRefusalsRequest.self, frame, in: session) { try await $0.perform($1, by: $2) }
        case .reload: self.change(NativeReloadRequest.self, { _ in nil }, frame, in: session) { try await $0.perform($1, by: $2) }
        case .refuse: self.change(NativeRefuseRequest.self, \.target.text, frame, in: session) { try await $0.perform($1, by: $2) }
        case .acceptAgain:
            self.change(NativeAcceptAgainRequest.self, \.target.text, frame, in: session) { try await $0.perform($1, by: $2) }
        default: self.fail(.unknownRequest(frame.kind), frame, in: session)
        }
    }

    /// Answers at once.
    private func answer<Request: NativeRequest>(
        _ type: Request.Type, _ frame: NativeFrame, in session: SessionHandler, _ body: (Request) -> Request.Reply
    ) {
        do throws(ProtocolError) {
            self.reply(body(try Request(frame.fields)), frame, in: session)
        } catch {
            self.fail(NativeFailure(error), frame, in: session)
        }
    }

    /// Has a request done that changes something, which the audit log is told.
    private func change<Request: NativeRequest>(
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
    private func administer<Request: NativeRequest>(
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
        let principal = session.info.principal
        self.administrationsInFlight += 1
        session.requestStarted()
        // Only what is rare leaves the loop for a task.
        session.loop.eventLoop.makeFutureWithTask { try await body(administration, request, principal) }
            .assumeIsolated().whenComplete { result in
                self.administrationsInFlight -= 1
                switch result {
                case .success(let reply):
                    whenEnded(request, nil)
                    self.reply(reply, frame, in: session)
                case .failure(let error):
                    whenEnded(request, "\(error)")
                    self.fail(NativeFailure(reporting: error), frame, in: session)
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
                isRetryable: true, retryAfterMilliseconds: Self.retryAfterMilliseconds)
        }
        return administration
    }

    private func welcome(_ hello: NativeHello, _ session: SessionHandler) -> NativeWelcome {
        var welcome = NativeWelcome()
        welcome.version = max(1, min(hello.version, NativeHello.currentVersion))
        welcome.serverVersion = softwareVersion
        welcome.principal = session.info.principal.name
        welcome.maximumMessageBytes = Int64(session.loop.limits.maximumMessageBytes)
        welcome.maximumRequestsInFlight = Int64(session.loop.limits.maximumRequestsInFlight)
        welcome.connection = Int64(clamping: session.info.connectionID)
        return welcome
    }

    private static func pong(_ ping: NativePing) -> NativePong {
        var pong = NativePong()
        pong.payload = ping.payload
        return pong
    }

    // MARK: Answers

    private struct TooBig: Error {}

    private func reply(_ reply: some NativeRecord, _ frame: NativeFrame, in session: SessionHandler) {
        let maximumBytes = session.loop.limits.maximumMessageBytes
        do throws(TooBig) {
            try session.send(.binary) { (buffer) throws(TooBig) in
                let start = buffer.writerIndex
                NativeFrame.write(reply: reply, to: NativeRequestKind(rawValue: frame.kind), id: frame.id, to: &buffer)
                if buffer.writerIndex - start > maximumBytes { throw TooBig() }
            }
        } catch {
            self.fail(
                NativeFailure(.answerTooBig, "the answer is over the message limit of \(maximumBytes) bytes", remedy: "ask for less"),
                frame, in: session)
        }
    }

    private func fail(_ failure: NativeFailure, _ frame: NativeFrame, in session: SessionHandler) {
        session.loop.counters.failedRequests &+= 1
        self.log("\(NativeRequestKind(rawValue: frame.kind)): \(failure.code): \(failure.detail)", in: session)
        session.send(.binary, expectedBytes: 256) { buffer in
            NativeFrame.write(failure: failure, of: NativeRequestKind(rawValue: frame.kind), id: frame.id, to: &buffer)
        }
    }

    private func log(_ reason: String, in session: SessionHandler) {
        let (isAllowed, unlogged) = self.lines.take(at: session.loop.now.uptimeSeconds)
        guard isAllowed else { return }
        session.loop.log(session.info, level: .warning, "request failed", ["reason": "\(reason)", "unlogged": "\(unlogged)"])
    }
}
