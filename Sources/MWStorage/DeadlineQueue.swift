/// When sessions and leases may have to end. Each has one entry; the time in it may be an earlier one than its real one, since
/// keeping something alive must cost nothing: whoever takes an entry out looks, and puts it back.
struct DeadlineQueue {
    enum Subject: Hashable {
        case session(SessionID)
        case lease(LeaseID)
    }

    private struct Entry {
        let deadline: Duration
        let subject: Subject
    }

    /// A binary heap: an entry is never later than the two at twice its index, plus one and two.
    private var heap: [Entry] = []

    var first: Duration? { heap.first?.deadline }

    var count: Int { heap.count }

    mutating func insert(_ subject: Subject, at deadline: Duration) {
        heap.append(Entry(deadline: deadline, subject: subject))
        var index = heap.count - 1
        while index > 0, heap[index].deadline < heap[(index - 1) / 2].deadline {
            heap.swapAt(index, (index - 1) / 2)
            index = (index - 1) / 2
        }
    }

    /// Takes out one whose time has come.
    mutating func popDue(_ now: Duration) -> Subject? {
        guard let first = heap.first, first.deadline <= now else { return nil }
        let last = heap.removeLast()
        guard !heap.isEmpty else { return first.subject }
        heap[0] = last
        var index = 0
        while true {
            var least = index
            for child in [2 * index + 1, 2 * index + 2] where child < heap.count && heap[child].deadline < heap[least].deadline {
                least = child
            }
            guard least != index else { return first.subject }
            heap.swapAt(index, least)
            index = least
        }
    }
}
