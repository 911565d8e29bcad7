// Command empty is the floor of an exec.
package main

func main() {}
