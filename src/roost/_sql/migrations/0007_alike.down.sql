drop function roost.insert_alike;
