drop function roost.insert_or_hand_over;
drop function roost.take_offer;
alter table roost.workers
    drop column offer,
    drop column channel,
    drop column tasks;
