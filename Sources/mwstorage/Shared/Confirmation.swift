/// A destructive command asks a person, and wants `--yes` from a script.
enum Confirmation {
    /// - Throws: `CommandFailure`: status 64 if nobody can be asked, 1 if the answer is not yes.
    static func ask(_ question: String, yes: Bool) throws {
        if yes { return }
        guard Output.isInputTerminal, Output.isErrorTerminal else {
            throw CommandFailure(
                .usage, "not done: this must be confirmed", why: question, remedy: "add --yes (or look first with --dry-run)")
        }
        Output.note(question + " [yes/no]")
        guard let answer = readLine(), ["y", "yes"].contains(answer.lowercased()) else {
            throw CommandFailure(.no, "not done", why: "the answer was not yes")
        }
    }
}
