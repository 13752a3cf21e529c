import MWACME
import MWCertificateManager

/// The steps of an operation on standard error, a line before each.
enum ACMEProgress {
    /// Shorter waits are no news.
    private static let shownWait: Duration = .seconds(1)

    /// - Parameter format: Lines for people, or one JSON object each; nil shows nothing.
    static func observer(_ format: OutputFormat?) -> Progress.Observer {
        { progress in
            guard let format, !progress.isDone, isShown(progress.step) else { return }
            guard format.isJSON else {
                Output.note("  \(progress.number). \(progress.phase.map { "\(words($0)): " } ?? "")\(progress.step)")
                return
            }
            Output.note(
                JSONValue.object([
                    ("step", .integer(Int64(progress.number))), ("phase", .optional(progress.phase?.rawValue)),
                    ("action", .string("\(progress.step)")),
                ]).text)
        }
    }

    private static func isShown(_ step: Progress.Step) -> Bool {
        if case .wait(let duration) = step { duration >= shownWait } else { true }
    }

    /// `readingDirectory` as "reading directory".
    private static func words(_ phase: IssuanceStateMachine.Phase) -> String {
        phase.rawValue.reduce(into: "") { text, character in
            text += character.isUppercase ? " " + character.lowercased() : String(character)
        }
    }
}
