/// Semantic version of the command and the libraries: what each side of a connection tells the other.
package let softwareVersion = "0.1.0"
