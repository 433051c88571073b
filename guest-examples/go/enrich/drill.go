package main

import "enrich/wasmill"

// hoard keeps what a hog has allocated.
var hoard [][]byte

// drill fails on request, in the ways that the tests of the host need: it is not part of the example.
func drill(event *wasmill.Event) {
	if event.Type != "drill" {
		return
	}
	switch string(event.Data) {
	case "trap":
		panic("asked to")
	case "spin":
		for {
		}
	case "hog":
		for {
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = 1
			}
			hoard = append(hoard, block)
		}
	}
}
