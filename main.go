// Command farlan puts machines that are far away on your LAN.
package main

import (
	"os"

	"farlan/agent"
)

func main() { os.Exit(agent.Main(os.Args[1:], os.Stdout, os.Stderr)) }
