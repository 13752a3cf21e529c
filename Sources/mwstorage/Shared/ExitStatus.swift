/// How a command ends: the whole table, frozen. A code that is not listed means failure.
///
/// | code | meaning |
/// |---|---|
/// | 0 | done, "nothing to do" included |
/// | 1 | the answer is no: key absent, certificate due, doctor found a fault |
/// | 64 | usage |
/// | 65, 66 | bad input data; input file missing |
/// | 69 | server not reachable, or refused before the request was sent |
/// | 70 | internal error |
/// | 73, 74 | cannot create output; local input/output |
/// | 75 | outcome unknown, or temporary refusal: try again |
/// | 76 | protocol or version mismatch |
/// | 77 | authenticated, but the policy says no |
/// | 78 | configuration or policy invalid |
/// | 80 | the server refused our certificate |
/// | 81 | we refuse the server |
/// | 82 | history compacted or another incarnation: read afresh |
/// | 130, 143 | SIGINT, SIGTERM |
enum ExitStatus: Int32, CaseIterable, Sendable {
    case done = 0
    case no = 1
    case usage = 64
    case badInput = 65
    case inputMissing = 66
    case unreachable = 69
    case internalError = 70
    case cannotCreateOutput = 73
    case inputOutput = 74
    case outcomeUnknown = 75
    case protocolMismatch = 76
    case forbidden = 77
    case configurationInvalid = 78
    case certificateRefused = 80
    case serverRefused = 81
    case compacted = 82
    case interrupted = 130
    case terminated = 143

    var summary: String {
        switch self {
        case .done: "done, \"nothing to do\" included"
        case .no: "the answer is no: key absent, certificate due, doctor found a fault"
        case .usage: "usage"
        case .badInput: "bad input data"
        case .inputMissing: "input file missing"
        case .unreachable: "server not reachable, or refused before the request was sent"
        case .internalError: "internal error"
        case .cannotCreateOutput: "cannot create output"
        case .inputOutput: "local input or output failed"
        case .outcomeUnknown: "outcome unknown, or temporary refusal: try again"
        case .protocolMismatch: "protocol or version mismatch"
        case .forbidden: "authenticated, but the policy says no"
        case .configurationInvalid: "configuration or policy invalid"
        case .certificateRefused: "the server refused our certificate"
        case .serverRefused: "we refuse the server"
        case .compacted: "history compacted or another incarnation: read afresh"
        case .interrupted: "interrupted (SIGINT)"
        case .terminated: "terminated (SIGTERM)"
        }
    }
}
