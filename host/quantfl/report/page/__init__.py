"""The live page: a run or its folder in a browser, on this machine (extra [live])."""
