/// What an event loop changes all the time, in place.
///
/// A stored property of a class is checked at run time for overlapping accesses wherever the compiler cannot see that there are none:
/// sixty to a hundred instructions each time, a quarter of what a get of a hot value took. This has the check in debug builds, which run
/// the tests, and not in release builds. So keep accesses short: call nothing meanwhile that may come back here.
@safe
package struct UncheckedBox<Value: ~Copyable>: ~Copyable {
    #if DEBUG
        private final class Checked {
            var value: Value

            init(_ value: consuming Value) { self.value = value }
        }

        private let checked: Checked

        package init(_ value: consuming Value) { self.checked = Checked(value) }

        package var value: Value {
            _read { yield self.checked.value }
            nonmutating _modify { yield &self.checked.value }
        }
    #else
        // Safety: the memory is this box's own, and a non-copyable box has one owner, which uses it on one event loop.
        @usableFromInline let address: UnsafeMutablePointer<Value>

        @inlinable
        package init(_ value: consuming Value) {
            unsafe self.address = .allocate(capacity: 1)
            unsafe self.address.initialize(to: value)
        }

        deinit {
            unsafe self.address.deinitialize(count: 1)
            unsafe self.address.deallocate()
        }

        @inlinable
        package var value: Value {
            @inline(__always) _read { yield unsafe self.address.pointee }
            @inline(__always) nonmutating _modify { yield unsafe &self.address.pointee }
        }
    #endif
}
